"""What was asked for, checked before anything long begins, and where the file is to be."""

import importlib.util
from dataclasses import replace
from pathlib import Path

from effnet_cli.export.targets import TARGETS, Target
from effnet_cli.models.checkpoint import MODEL_FILE_NAME
from effnet_cli.models.export_file import is_export, json_path
from effnet_cli.models.weights import Model
from effnet_cli.options import ExportTask
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import cannot_write


def validate_task(task: ExportTask) -> ExportTask:
    """The task with what its target fixes, checked before anything long begins."""
    options, target = task.options, TARGETS[task.options.target]
    if options.precision not in target.precisions:
        raise UsageError(
            f"The target {options.target} is not written in {options.precision}.",
            f"It is written in {', '.join(target.precisions)}.",
        )
    if options.quantize and not target.quantizes:
        able = [name for name, row in TARGETS.items() if row.quantizes]
        raise UsageError(
            f"The target {options.target} is not written in {options.quantize}.",
            f"These are: {', '.join(able)}.",
        )
    if options.quantize and options.precision != "fp32":
        raise UsageError(
            f"--quantize int8 and --precision {options.precision} exclude each other.",
            "Leave one of them out.",
        )
    if options.quantize and task.calibrate is None:
        raise UsageError(
            f"--quantize {options.quantize} needs images to measure the network's values on.",
            "Name a folder of typical ones: --calibrate DIR",
        )
    if task.calibrate is not None and not options.quantize:
        raise UsageError(
            f"--calibrate {str(task.calibrate)!r} is for int8.", "Add --quantize int8."
        )
    if task.max_drop != ExportTask.max_drop and not options.quantize:
        raise UsageError(f"--max-drop {task.max_drop:g} is for int8.", "Add --quantize int8.")
    if importlib.util.find_spec(target.library) is None:
        raise EffnetError(
            f"The target {options.target} needs {target.library}, which is not installed.",
            f"Install it: {target.install}",
        )
    if not target.has_open_batch and options.batch is None:
        return replace(task, options=replace(options, batch=1))
    return task


def destination(task: ExportTask, target: Target, network: Model) -> Path:
    """Where the file goes; nothing that is no export is ever replaced.

    Raises:
        UsageError: it has another ending than such files, or is there and no export.
        EffnetError: no file can have that name.
    """
    try:
        return _destination(task, target, network)
    except OSError as error:
        raise cannot_write(Path(error.filename), error) from error


def _destination(task: ExportTask, target: Target, network: Model) -> Path:
    given = task.output
    kind = task.options.quantize or task.options.precision
    if task.model.model is None:
        stem = network.variant.name
    else:
        file = network.path.resolve()
        stem = file.parent.name if file.name == MODEL_FILE_NAME else file.stem
    name = f"{stem}{'' if kind == 'fp32' else f'-{kind}'}{target.ending}"
    is_folder = given is not None and given.is_dir() and given.suffix != target.suffix
    path = Path(name) if given is None else given / name if is_folder else given
    if path.suffix.lower() != target.suffix:
        raise UsageError(
            f"--output {str(path)!r} does not end in {target.suffix}, as files for "
            f"{task.options.target} do.",
            f"Use --output {str(path.with_suffix(target.suffix))!r}, or an existing folder.",
        )
    files = [path, json_path(path), *(path.with_suffix(suffix) for suffix in target.companions)]
    for file in files:
        if file.exists() and not is_export(path):
            raise UsageError(
                f"{str(file)!r} is there already, and effnet did not export it.",
                "Name another file with --output.",
            )
    return path
