"""A network -> a file for another runtime, compared with its source before it gets its name."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from effnet_cli import __version__
from effnet_cli.engines.base import CannotRunError
from effnet_cli.engines.normalise import Pixels, normalise
from effnet_cli.engines.registry import plan_engine
from effnet_cli.export import agreement
from effnet_cli.export.agreement import Candidate, Compared, Form
from effnet_cli.export.calibration import calibrated
from effnet_cli.export.files import facts, files_of, put_in_place, scratch_folder, written
from effnet_cli.export.quantize import best_recipe
from effnet_cli.export.samples import ImageSet, choose_images
from effnet_cli.export.source import ExportSource
from effnet_cli.export.targets import TARGETS, Target
from effnet_cli.export.validate import destination, validate_task
from effnet_cli.models import build
from effnet_cli.models.card import ModelCard
from effnet_cli.models.weights import Model, resolve_model
from effnet_cli.options import EngineOptions, ExportOptions, ExportTask, ModelOptions
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.reporter import SILENT, Reporter

CHOICE_IMAGES = 32  # of the calibration images, for the choice between recipes


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What came of an export.

    `path` is where the file is; `None` if it was refused. `objection` says why it does not hold;
    `None` if it does, or if it can only be run `elsewhere` (in words). `forms` are the reference,
    perhaps the target's own float32, and the file, each compared on `images` looks at `on`.
    """

    target: str
    precision: str
    path: Path | None
    elsewhere: str | None
    objection: str | None
    on: str
    images: int
    confident: int
    forms: tuple[Form, ...]
    seconds: float


def export(task: ExportTask, reporter: Reporter = SILENT) -> ExportResult:
    """Write the network of `task` for its target, run it there, and compare.

    Raises:
        UsageError: the target cannot do it, or a folder or file is not what it should be.
        EffnetError: a library or the weights are missing, or nothing can be written.
    """
    started = time.perf_counter()
    task = validate_task(task)
    target = TARGETS[task.options.target]
    if task.model.model is not None:
        build.check_has_weights(task.model.model)
    network = resolve_model(task.model, reporter)
    final = destination(task, target, network)
    calibration, images = choose_images(
        task.calibrate, task.check, network.card, task.images, reporter, task.model.model
    )
    module = build.load_module(
        network
    )  # weights that do not fit are told before anything is written
    source = ExportSource(network, _card(network, task.options), task.options, module)
    if calibration is not None and task.options.quantize:
        source = _quantised(source, calibration, task, reporter)
    precision = task.options.quantize or task.options.precision
    with scratch_folder(final) as scratch:
        reporter.note(f"Writing {network.variant.name} for {task.options.target}, {precision}")
        found = Compared((), 0, 0)
        objection = None
        with _room_for(task.options):
            path = written(source, target, scratch / final.name)
            if target.elsewhere is None:
                found = _compared(source, target, path, images, task, reporter)
                *_, form = found.forms
                objection = agreement.objection(form, found.forms[0], precision, task.max_drop)
        result = ExportResult(
            task.options.target,
            precision,
            final if objection is None or task.force else None,
            target.elsewhere,
            objection,
            images.name,
            found.images,
            found.confident,
            found.forms,
            time.perf_counter() - started,
        )
        facts(source, path, _check(result)).write(path)
        if result.path is not None:
            put_in_place(scratch, path, final)
    return result


def _card(network: Model, options: ExportOptions) -> ModelCard:
    about = asdict(options) | {"source_sha256": network.sha256, "effnet": __version__}
    return replace(network.card, export=about)


def _quantised(
    source: ExportSource, images: ImageSet, task: ExportTask, reporter: Reporter
) -> ExportSource:
    to_choose_by: list[Pixels] = []

    def shown() -> Iterator[Pixels]:
        for one in images.looked_at(source.card, task.images, reporter, "Calibrating"):
            pixels = normalise(one.crop, source.card.preprocessing)
            if len(to_choose_by) < CHOICE_IMAGES:
                to_choose_by.append(pixels)
            yield pixels

    graph = source.plain_graph()
    recipe = best_recipe(graph, calibrated(graph, shown()), to_choose_by)
    reporter.note(
        f"int8: calibrated on {images.views} looks at {images.name}, ranges by {recipe.calibrator}"
    )
    card = replace(source.card, export={**source.card.export, "ranges": recipe.calibrator})
    return replace(source, card=card, recipe=recipe)


# --- the comparison -------------------------------------------------------------------------------


def _compared(
    source: ExportSource,
    target: Target,
    path: Path,
    images: ImageSet,
    task: ExportTask,
    reporter: Reporter,
) -> Compared:
    """The source in torch, the target's own float32 if the file is coarser, and the file."""
    torch = plan_engine(EngineOptions("cpu", "torch")).load(source.network)
    candidates = [Candidate("torch fp32", torch, source.network.path.stat().st_size)]
    if source.recipe is not None or source.options.precision != "fp32":
        plain = _in_float32(source)
        beside = path.parent / "fp32" / path.name
        candidates.append(_candidate(plain, written(plain, target, beside)))
    candidates.append(_candidate(source, path))
    looked = images.looked_at(source.card, task.images, reporter, "Comparing")
    batch, temperature = source.options.batch or 1, source.card.temperature
    return agreement.compared(candidates, looked, batch, temperature)


@contextmanager
def _room_for(options: ExportOptions) -> Iterator[None]:
    """Say that many images in a call were too many; libraries have a dozen errors for it."""
    try:
        yield
    except (MemoryError, RuntimeError, CannotRunError) as error:
        if (options.batch or 1) == 1:
            raise
        raise EffnetError(
            f"What is written for {options.target} with --batch {options.batch} cannot be run "
            "here: it may need more memory than there is.",
            "Use a smaller --batch, or leave it out.",
        ) from error


def _in_float32(source: ExportSource) -> ExportSource:
    options = replace(source.options, precision="fp32", quantize=None)
    card = replace(source.card, export={**source.card.export, **asdict(options)})
    return replace(source, card=card, options=options, recipe=None)


def _candidate(source: ExportSource, path: Path) -> Candidate:
    """A written file, loaded as `predict --model` loads it."""
    network = resolve_model(ModelOptions(model=path))
    engine = plan_engine(EngineOptions("cpu"), network.file_kind).load(network)
    name = f"{source.options.target} {source.options.quantize or source.options.precision}"
    return Candidate(name, engine, sum(file.stat().st_size for file in files_of(path)))


def _check(result: ExportResult) -> dict[str, Any]:
    """The comparison for the JSON."""
    return {
        "was_run": result.elsewhere is None,
        "holds": result.elsewhere is None and result.objection is None,
        "objection": result.objection,
        "on": result.on,
        "images": result.images,
        "confident": result.confident,
        "forms": [asdict(form) for form in result.forms],
    }
