"""`effnet finetune`."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from effnet_cli.options import (
    FULL_MODEL_ONLY,
    TRAINING_ONLY,
    FinetuneOptions,
    FinetuneOutputs,
    FinetuneTask,
    Format,
)
from effnet_cli.output.out import Output, open_output
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.fields import long_flag

if TYPE_CHECKING:
    from effnet_cli.finetune.records import TrainingRecord


def finetune(task: FinetuneTask, outputs: FinetuneOutputs, typed: frozenset[str]) -> int:
    """Fine-tune a model on the classes of a dataset.

    First trains a classifier head on features of the pretrained model, then, for --epochs, the full
    model, and keeps the best epoch by validation. The dataset is checked beforehand; --check does
    only that.
    """
    if "root" not in typed and task.resume is None:
        raise UsageError("No dataset given.", "Add one: effnet finetune ./dataset")
    if task.resume is not None and task.output is not None:
        raise UsageError(
            "--output cannot be combined with --resume, which continues in its own folder.",
            "Omit one of them.",
        )
    with open_output(outputs) as out:
        if task.resume is not None:
            from effnet_cli.finetune import resume

            task = resume.restore_task(task, typed)
        _check_meaning(task.options, typed)
        if outputs.check:
            if outputs.format in ("csv", "jsonl"):
                raise UsageError(
                    f"--check cannot be combined with --format {outputs.format}.",
                    "Use --format json, or omit it.",
                )
            return _check_dataset(task, outputs.format, out)
        from effnet_cli.finetune import formats, run, table

        records = _describe(run.finetune(task, out), task, outputs, out=out)
        csv, blocks = formats.csv_lines(records), table.blocks(records)
        out.rows(outputs.format, map(formats.to_row, records), csv=csv, blocks=blocks)
    return 0


def _describe(
    records: Iterator["TrainingRecord"],
    task: FinetuneTask,
    outputs: FinetuneOutputs,
    *,
    out: Output,
) -> Iterator["TrainingRecord"]:
    """Yield the same records. After a result, write the report, and say how to use the model."""
    from effnet_cli.finetune import formats
    from effnet_cli.finetune.records import AllImagesResult, TrainingResult

    for record in records:
        yield record
        if isinstance(record, TrainingResult):
            if outputs.report:
                _report(task, record.model.parent, out)
            for line in formats.describe_result(record):
                out.note(line)
        elif isinstance(record, AllImagesResult):
            out.note(formats.describe_all_images(record))


def _check_meaning(options: FinetuneOptions, typed: frozenset[str]) -> None:
    """Refuse given options that have no meaning with others."""
    if options.has_full_phase:
        return
    choice, part, unused = "--head-only", "the full model", FULL_MODEL_ONLY
    if not options.is_trained:
        choice, part, unused = f"--method {options.method}", "a model", TRAINING_ONLY
    for field in fields(FinetuneOptions):
        if field.name in typed & unused:
            flag = long_flag(field)
            raise UsageError(
                f"{flag} cannot be combined with {choice}, which does not train {part}.",
                f"Omit {flag}.",
            )


def _check_dataset(task: FinetuneTask, format_: Format, out: Output) -> int:
    """Scan the dataset, write what was found, and return the exit status."""
    from effnet_cli.datasets.scan import scan
    from effnet_cli.finetune.table import scan_blocks

    found = scan(
        task.root,
        task.dataset,
        seed=task.options.seed,
        images=task.images,
        workers=task.workers,
        reporter=out,
    )
    out.show(format_, found.to_json(), scan_blocks(found))
    return 0 if found.dataset is not None else UsageError.exit_status


def _report(task: FinetuneTask, folder: Path, out: Output) -> None:
    """Evaluate the model of a run on its validation images, and write the report."""
    from effnet_cli.evaluate.run import evaluate, validation_task
    from effnet_cli.finetune.page import report_page
    from effnet_cli.models.card import REPORT_FILE_NAME

    path = folder / REPORT_FILE_NAME
    try:
        found = replace(evaluate(validation_task(task, folder)), data=str(task.root))
        out.page(report_page(found, folder), path)
    except EffnetError as error:  # the model has been saved anyway
        out.note(f"Cannot write the report: {error.message}")
    else:
        out.note(f"Saved the report to {path}")
