"""A network -> a file for another runtime, compared with its source before it gets its name."""

import importlib.util
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from effnet_cli import __version__, engines, model
from effnet_cli.cache import cannot_write
from effnet_cli.checkpoint import MODEL_FILE_NAME, ModelCard
from effnet_cli.errors import EffnetError, UsageError
from effnet_cli.export import agreement
from effnet_cli.export.agreement import Candidate, Compared, Form
from effnet_cli.export.calibration import calibrated
from effnet_cli.export.int8 import best_recipe
from effnet_cli.export.pictures import PictureSet, chosen
from effnet_cli.export.source import Source
from effnet_cli.exported import Facts, json_of, sha256_of
from effnet_cli.options import (
    SILENT,
    EngineOptions,
    ExportOptions,
    ExportTask,
    Listener,
    ModelOptions,
)
from effnet_cli.targets import TARGETS, Target
from effnet_cli.weights import Network, resolve

__all__ = ["Exported", "Form", "export"]

CHOICE_PICTURES = 32  # of the calibration pictures, for the choice between recipes


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of an export.

    `path` is where the file is; `None` if it was refused. `objection` says why it does not hold;
    `None` if it does, or if it can only be run `elsewhere` (in words). `forms` are the reference,
    perhaps the target's own float32, and the file, each compared on `pictures` looks at `on`.
    """

    target: str
    precision: str
    path: Path | None
    elsewhere: str | None
    objection: str | None
    on: str
    pictures: int
    confident: int
    forms: tuple[Form, ...]
    seconds: float


def export(task: ExportTask, listener: Listener = SILENT) -> Exported:
    """Write the network of `task` for its target, run it there, and compare.

    Raises:
        UsageError: the target cannot do it, or a folder or file is not what it should be.
        EffnetError: a library or the weights are missing, or nothing can be written.
    """
    started = time.perf_counter()
    task = _settled(task)
    target = TARGETS[task.options.target]
    if task.model.model is not None:
        model.check_has_weights(task.model.model)
    network = resolve(task.model, listener)
    final = _destination(task, target, network)
    calibration, pictures = chosen(task.calibrate, task.check, network.card.classes)
    source = Source(network, _card(network, task.options), task.options)
    source.module  # noqa: B018 (weights that do not fit are told before anything is written)
    if calibration is not None and task.options.quantize:
        source = _quantised(source, calibration, task, listener)
    precision = task.options.quantize or task.options.precision
    with _scratch_folder(final) as scratch:
        listener.note(f"Writing {network.variant.name} for {task.options.target}, {precision}")
        path = _written(source, target, scratch / final.name)
        found = Compared((), 0, 0)
        objection = None
        if target.elsewhere is None:
            found = _compared(source, target, path, pictures, task, listener)
            *_, form = found.forms
            objection = agreement.objection(form, found.forms[0], precision, task.max_drop)
        result = Exported(
            task.options.target,
            precision,
            final if objection is None or task.force else None,
            target.elsewhere,
            objection,
            pictures.name,
            found.pictures,
            found.confident,
            found.forms,
            time.perf_counter() - started,
        )
        _facts(source, path, _check(result)).write(path)
        if result.path is not None:
            _put_in_place(scratch, path, final)
    return result


# --- before ---------------------------------------------------------------------------------------


def _settled(task: ExportTask) -> ExportTask:
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
            f"--quantize {options.quantize} needs pictures to measure the network's values on.",
            "Name a folder of typical ones: --calibrate DIR",
        )
    if task.calibrate is not None and not options.quantize:
        raise UsageError(
            f"--calibrate {str(task.calibrate)!r} is for int8.", "Add --quantize int8."
        )
    if importlib.util.find_spec(target.library) is None:
        raise EffnetError(
            f"The target {options.target} needs {target.library}, which is not installed.",
            f"Install it: {target.install}",
        )
    if not target.has_open_batch and options.batch is None:
        return replace(task, options=replace(options, batch=1))
    return task


def _destination(task: ExportTask, target: Target, network: Network) -> Path:
    """Where the file goes; nothing that is no export is ever replaced."""
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
            f"Use --output {str(path.with_suffix(target.suffix))!r}, or name a folder.",
        )
    if path.exists() and not json_of(path).is_file():
        raise UsageError(
            f"--output {str(path)!r} is there already, and effnet did not export it.",
            "Name another file.",
        )
    return path


def _card(network: Network, options: ExportOptions) -> ModelCard:
    about = asdict(options) | {"source_sha256": network.sha256, "effnet": __version__}
    return replace(network.card, export=about)


def _quantised(
    source: Source, pictures: PictureSet, task: ExportTask, listener: Listener
) -> Source:
    looked = pictures.looked_at(source.card, task.pictures, listener, "Calibrating")
    shown = [one.pixels for one in looked]
    if not shown:
        raise UsageError(
            f"None of the pictures in {pictures.name!r} can be opened.", "Name other ones."
        )
    graph = source.plain_graph()
    seen = calibrated(graph, shown)
    recipe = best_recipe(graph, seen, shown[:CHOICE_PICTURES])
    listener.note(f"int8: calibrated on {len(shown)} pictures, ranges by {recipe.calibrator}")
    card = replace(source.card, export={**source.card.export, "ranges": recipe.calibrator})
    return replace(source, card=card, recipe=recipe)


# --- writing --------------------------------------------------------------------------------------


@contextmanager
def _scratch_folder(final: Path) -> Iterator[Path]:
    """A folder beside the final file, which vanishes with all that is still in it."""
    scratch = final.with_name(f".{final.name[:50]}.{secrets.token_hex(8)}.part")
    try:
        scratch.mkdir(parents=True)
        yield scratch
    except OSError as error:
        raise cannot_write(final, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _written(source: Source, target: Target, path: Path) -> Path:
    """The target's file with a first JSON beside it, so that it can be loaded as any other."""
    module, function = target.path.split(":")
    try:
        write = getattr(import_module(module), function)
    except ImportError as error:
        raise EffnetError(
            f"The installed {target.library} cannot be loaded: {error}.",
            f"Install it: {target.install}",
        ) from error
    path.parent.mkdir(exist_ok=True)
    write(source, path)
    _facts(source, path, {}).write(path)
    return path


def _facts(source: Source, path: Path, check: Mapping[str, Any]) -> Facts:
    """What the JSON says."""
    options, card = source.options, source.card
    target, batch, px = (
        TARGETS[options.target],
        options.batch or "batch",
        card.preprocessing.crop_px,
    )
    if options.include_preprocessing:
        given = {"dtype": target.picture, "layout": "NHWC", "values": "0 to 255"}
    else:
        values = "(value / 255 - mean) / std"
        given = {"dtype": "float32", "layout": target.layout, "values": values}
    shape = [batch, px, px, 3] if given["layout"] == "NHWC" else [batch, 3, px, px]
    output = {
        "dtype": "float32",
        "shape": [batch, len(card.classes)],
        "values": "probabilities" if options.include_preprocessing else "logits",
    }
    files = {file.name: sha256_of(file) for file in _files_of(path) if file.is_file()}
    return Facts(card, {**given, "shape": shape, "colour": "RGB"}, output, files, check)


def _files_of(path: Path) -> list[Path]:
    """The file and what belongs to it, but not the JSON."""
    weights = path.with_suffix(".bin")
    return [path, *([weights] if weights.exists() else [])]


def _put_in_place(scratch: Path, path: Path, final: Path) -> None:
    """Move the files to their names, the one that a person calls last."""
    for file in (*_files_of(path)[1:], json_of(path), path):
        goal = final.with_name(file.name)
        if goal.is_dir():
            goal.replace(scratch / "replaced")
        file.replace(goal)


# --- the comparison -------------------------------------------------------------------------------


def _compared(
    source: Source,
    target: Target,
    path: Path,
    pictures: PictureSet,
    task: ExportTask,
    listener: Listener,
) -> Compared:
    """The source in torch, the target's own float32 if the file is coarser, and the file."""
    torch = engines.plan(EngineOptions("cpu", "torch")).load(source.network)
    candidates = [Candidate("torch fp32", torch, source.network.path.stat().st_size)]
    if source.recipe is not None or source.options.precision != "fp32":
        plain = _in_float32(source)
        beside = path.parent / "fp32" / path.name
        candidates.append(_candidate(plain, _written(plain, target, beside)))
    candidates.append(_candidate(source, path))
    looked = pictures.looked_at(source.card, task.pictures, listener, "Comparing")
    batch, temperature = source.options.batch or 1, source.card.temperature
    found = agreement.compared(candidates, looked, batch, temperature)
    if not found.pictures:
        raise UsageError(
            f"None of the pictures in {pictures.name!r} can be opened.", "Name other ones."
        )
    return found


def _in_float32(source: Source) -> Source:
    options = replace(source.options, precision="fp32", quantize=None)
    card = replace(source.card, export={**source.card.export, **asdict(options)})
    return replace(source, card=card, options=options, recipe=None)


def _candidate(source: Source, path: Path) -> Candidate:
    """A written file, loaded as `predict --model` loads it."""
    network = resolve(ModelOptions(model=path))
    engine = engines.plan(EngineOptions("cpu"), network.kind).load(network)
    name = f"{source.options.target} {source.options.quantize or source.options.precision}"
    return Candidate(name, engine, sum(file.stat().st_size for file in _files_of(path)))


def _check(result: Exported) -> dict[str, Any]:
    """The comparison for the JSON."""
    return {
        "was_run": result.elsewhere is None,
        "holds": result.elsewhere is None and result.objection is None,
        "objection": result.objection,
        "on": result.on,
        "pictures": result.pictures,
        "confident": result.confident,
        "forms": [asdict(form) for form in result.forms],
    }
