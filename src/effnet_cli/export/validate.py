"""Checks an export task and chooses its file name before anything slow starts."""

import importlib.util
from dataclasses import replace
from pathlib import Path

from effnet_cli.export.targets import TARGETS, Target
from effnet_cli.models.card import MODEL_FILE_NAME
from effnet_cli.models.export_file import is_export, json_path
from effnet_cli.models.hub_repo import parse_repo
from effnet_cli.models.weights import Model
from effnet_cli.options import ExportOptions, ExportTask
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import cannot_write

DEFAULT_MAX_DROP = 1.0  # percentage points


def validate_task(task: ExportTask) -> ExportTask:
    """Check the task and return it with defaults, such as a batch size of 1 if the target needs a
    fixed one.

    Raises:
        UsageError: the target does not support an option, or two options contradict each other.
        EffnetError: the target's library is not installed.
    """
    options, target = task.options, TARGETS[task.options.target]
    if options.precision not in target.precisions:
        raise UsageError(
            f"Target {options.target} does not support --precision {options.precision}.",
            f"Use one of: {', '.join(target.precisions)}.",
        )
    if options.quantize:
        _check_int8(task, target)
    elif task.calibrate is not None:
        raise UsageError("--calibrate only applies to int8.", "Add --quantize int8.")
    elif task.max_drop is not None:
        raise UsageError("--max-drop only applies to int8.", "Add --quantize int8.")
    if options.include_features:
        _check_features(options, target)
    if options.feature_maps:
        _check_feature_maps(options, target)
    if not target.has_graph:
        _check_no_graph(options)
    if importlib.util.find_spec(target.library) is None:
        raise EffnetError(
            f"Target {options.target} requires {target.library}, which is not installed.",
            f"Install it: {target.install}",
        )
    if not target.has_open_batch and options.batch is None:
        options = replace(options, batch=1)
    max_drop = DEFAULT_MAX_DROP if task.max_drop is None else task.max_drop
    return replace(task, options=options, max_drop=max_drop)


def _check_features(options: ExportOptions, target: Target) -> None:
    if not target.has_features:
        targets = ", ".join(name for name, row in TARGETS.items() if row.has_features)
        raise UsageError(
            f"Target {options.target} does not support --include-features.",
            f"Use one of these targets: {targets}.",
        )
    if options.quantize:
        raise UsageError(
            "--include-features cannot be combined with --quantize, which changes the features.",
            "Omit one of them.",
        )


def _check_feature_maps(options: ExportOptions, target: Target) -> None:
    if target.map_loader is None:
        targets = [f"--to {name}" for name, row in TARGETS.items() if row.map_loader]
        raise UsageError(
            f"Target {options.target} does not support --feature-maps.",
            f"Use {' or '.join(targets)}.",
        )
    reasons = {
        "--include-features": "which adds to predictions, while --feature-maps replaces them",
        "--include-preprocessing": "which ends in probabilities; detectors normalise images",
        "--quantize": "whose precision is chosen by predictions",
    }
    given = (options.include_features, options.include_preprocessing, options.quantize)
    for is_given, (flag, reason) in zip(given, reasons.items(), strict=True):
        if is_given:
            raise UsageError(
                f"--feature-maps cannot be combined with {flag}, {reason}.", f"Omit {flag}."
            )


def _check_no_graph(options: ExportOptions) -> None:
    """Refuse options that say something about a graph."""
    given = {"--batch": options.batch, "--include-preprocessing": options.include_preprocessing}
    for flag in filter(given.get, given):
        raise UsageError(f"Target {options.target} does not support {flag}.", "Omit it.")


def _check_int8(task: ExportTask, target: Target) -> None:
    options = task.options
    if not target.has_int8:
        targets = ", ".join(name for name, row in TARGETS.items() if row.has_int8)
        raise UsageError(
            f"Target {options.target} does not support --quantize {options.quantize}.",
            f"Use one of these targets: {targets}.",
        )
    if options.precision != "fp32":
        raise UsageError(
            f"--quantize int8 cannot be combined with --precision {options.precision}.",
            "Omit one of them.",
        )
    if task.calibrate is None:
        raise UsageError(
            f"--quantize {options.quantize} requires images to calibrate on.",
            "Pass a folder of representative images with --calibrate DIR.",
        )


def choose_path(task: ExportTask, target: Target, model: Model) -> Path:
    """Choose where to write the file; only an earlier export is ever replaced.

    Raises:
        UsageError: `--output` has the wrong suffix, or another file is in the way.
        EffnetError: the path cannot be used for a file.
    """
    path = task.output
    if not target.has_graph:
        return _choose_folder(path or Path(_default_name(task, target, model)))
    try:
        if path is None or (path.is_dir() and path.suffix != target.suffix):
            path = (path or Path()) / _default_name(task, target, model)
        if path.suffix.lower() != target.suffix:
            raise UsageError(
                f"--output {str(path)!r} does not end in {target.suffix}, the suffix of "
                f"{task.options.target} files.",
                f"Use --output {str(path.with_suffix(target.suffix))!r}, or an existing folder.",
            )
        for file in (*target.list_files(path), json_path(path)):
            if file.exists() and not is_export(path):
                raise UsageError(
                    f"{str(file)!r} already exists and was not created by effnet.",
                    "Use another --output.",
                )
    except OSError as error:
        raise cannot_write(Path(error.filename), error) from error
    return path


def _choose_folder(path: Path) -> Path:
    """Return the folder to create.

    Raises:
        UsageError: it exists and is not empty.
        EffnetError: the path cannot be used.
    """
    try:
        path = path if path.name else path.resolve()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(f"--output {str(path)!r} already exists.", "Use a new folder.")
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def _default_name(task: ExportTask, target: Target, model: Model) -> str:
    repo = None if task.model.model is None else parse_repo(task.model.model)
    if task.model.model is None:
        stem = model.variant.name
    elif repo is not None:
        stem = repo.name.rpartition("/")[2]
    else:
        file = model.path.resolve()
        stem = file.parent.name if file.name == MODEL_FILE_NAME else file.stem
    precision = task.options.output_precision
    stem += "-feature-maps" * task.options.feature_maps
    return f"{stem}{'' if precision == 'fp32' else f'-{precision}'}{target.ending}"
