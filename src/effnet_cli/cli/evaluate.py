"""`effnet evaluate`."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from effnet_cli.options import EvaluateOutputs, EvaluateTask
from effnet_cli.output.out import open_output
from effnet_cli.system.errors import CHECK_FAILED_STATUS, UsageError


def evaluate(task: EvaluateTask, outputs: EvaluateOutputs) -> int:
    """Measure how good a model is on labelled images.

    Folders are matched to classes by name; for the pretrained models also by WordNet id or index.
    Images that cannot be opened count as wrong.
    """
    from effnet_cli.evaluate import formats, metrics, run, table
    from effnet_cli.evaluate.records import Evaluation, LabelEvaluation
    from effnet_cli.models.variants import find_variant

    limits = _parse_limits(outputs.fail_under, metrics.LIMITS)
    if task.compare is not None:
        if task.compare.variant is not None:
            find_variant(task.compare.variant)  # fail before the first evaluation
        task = replace(task, compare=replace(task.compare, offline=task.model.offline))
    with open_output(outputs, [task.root]) as out:
        overlay = _overlay(task, outputs)
        found = run.evaluate(task, out)
        content, blocks = formats.as_json(found), table.blocks(found)
        out.show(outputs.format, content, blocks, csv=formats.csv_lines(found))
        if outputs.html is not None:
            from effnet_cli.evaluate.page import evaluation_page, label_page

            if isinstance(found, LabelEvaluation):
                page = label_page(found)
            else:
                page = evaluation_page(found, overlay=overlay)
            out.page(page, outputs.html)
            out.note(f"Saved {str(outputs.html)!r}.")
        if isinstance(found, Evaluation):
            for line in table.warnings(found):
                out.note(line)
        failed = list(metrics.check_limits(found, limits))
        for line in failed:
            out.note(f"Check failed: {line}.")
    if failed:
        return CHECK_FAILED_STATUS
    return 1 if found.failures else 0


def _parse_limits(texts: Sequence[str], names: Collection[str]) -> dict[str, float]:
    """Parse the lowest accepted value of each metric: `0.9` (top-1), `macro_f1=0.8`."""
    limits = {}
    for text in texts:
        name, sign, value = text.rpartition("=")
        name = name if sign else "top1"
        try:
            limit = float(value)
        except ValueError:
            limit = -1.0
        if name not in names or not 0 <= limit <= 1:
            raise UsageError(
                f"Invalid --fail-under {text!r}.",
                f"Use a fraction such as 0.9, or NAME=FRACTION with one of {', '.join(names)}.",
            )
        limits[name] = limit
    return limits


def _overlay(task: EvaluateTask, outputs: EvaluateOutputs) -> Callable[[str, str], Any] | None:
    """Return the function that draws Grad-CAM overlays for the page; `None` without --explain."""
    if not outputs.explain:
        return None
    if outputs.html is None:
        raise UsageError("--explain requires --html.", "Add --html FILE.")
    from effnet_cli.predict.gradcam import load_gradcam

    return load_gradcam(task.model, task.images).overlay
