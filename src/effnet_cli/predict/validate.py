"""Refuse at once what `effnet predict` could not do in the end."""

from collections.abc import Iterator
from pathlib import Path

from effnet_cli.options import PredictOutputs, PredictTask
from effnet_cli.output.writers import check_not_read, check_output, choose_format
from effnet_cli.predict.organize import check_folder
from effnet_cli.system.errors import UsageError


def validate(task: PredictTask, outputs: PredictOutputs) -> None:
    """Check options against each other, and the files to write.

    Raises:
        UsageError: options exclude each other, or a file cannot be written.
    """
    for is_invalid, message, hint in _conflicts(task, outputs):
        if is_invalid:
            raise UsageError(message, hint)
    if task.organize is not None:
        check_folder(task.organize, task.inputs)
    for path in outputs.files:
        check_output(path, "--output")
        choose_format(outputs.format, path)
    read = [Path(path) for text in task.inputs for path in (text, text.removeprefix("@"))]
    for path in filter(None, (*outputs.files, outputs.html)):
        check_not_read(path, read)


def _conflicts(task: PredictTask, outputs: PredictOutputs) -> Iterator[tuple[bool, str, str]]:
    """Whether options conflict, the error and the hint."""
    files = [path.resolve() for path in (*outputs.files, outputs.html) if path]
    yield (
        len(set(files)) < len(files),
        f"{str(files[-1])!r} is used for two outputs." if files else "",
        "Use a different file for each.",
    )
    yield (
        outputs.explain is not None and outputs.explain.exists() and not outputs.explain.is_dir(),
        f"--explain {str(outputs.explain)!r} is not a folder.",
        "Use an existing or a new folder.",
    )
    yield (
        outputs.resume and not outputs.files,
        "--resume needs a file to continue.",
        "Add --output FILE.",
    )
    yield (
        len(outputs.files) > 1 and outputs.format is not None,
        f"--format {outputs.format} conflicts with {len(outputs.files)} output files.",
        "Omit --format: the suffixes determine the formats.",
    )
    yield (
        task.organize is not None and task.organize.moves and outputs.resume,
        "--move conflicts with --resume, which compares the inputs: some have been moved.",
        "Omit --resume, and use a new --output for the remaining images.",
    )
