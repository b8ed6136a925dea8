"""Refuse options right away that would make `effnet predict` fail later."""

from pathlib import Path

from effnet_cli.images.finder import check_lists
from effnet_cli.options import PredictOutputs, PredictTask
from effnet_cli.output.writers import check_not_read, check_output, choose_format
from effnet_cli.predict.organize import check_folder
from effnet_cli.system.errors import UsageError


def validate(task: PredictTask, outputs: PredictOutputs) -> None:
    """Raise `UsageError` if options exclude each other, or a list of inputs or an
    output cannot be used.
    """
    _check_conflicts(task, outputs)
    check_lists(task.inputs)
    if task.organize is not None:
        check_folder(task.organize.folder, "--copy-to", task.inputs)
    if outputs.explain is not None:
        check_folder(outputs.explain, "--explain", task.inputs)
    for path in outputs.files:
        check_output(path, "--output")
        choose_format(outputs.format, path)
    read = [Path(path) for text in task.inputs for path in (text, text.removeprefix("@"))]
    for path in filter(None, (*outputs.files, outputs.html)):
        check_not_read(path, read)


def _check_conflicts(task: PredictTask, outputs: PredictOutputs) -> None:
    files = [path.resolve() for path in (*outputs.files, outputs.html) if path]
    twice = next((path for path in files if files.count(path) > 1), None)
    if twice is not None:
        raise UsageError(
            f"{str(twice)!r} is used for two outputs.", "Use a different file for each."
        )
    if outputs.resume and not outputs.files:
        raise UsageError("--resume requires --output.", "Add --output FILE.")
    if len(outputs.files) > 1 and outputs.format is not None:
        raise UsageError(
            f"--format {outputs.format} cannot be combined with {len(outputs.files)} output files.",
            "Omit --format: the suffixes determine the formats.",
        )
