"""Exports a model to a file for another runtime and compares the file with the model."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from effnet_cli import __version__
from effnet_cli.engines.base import CannotRunError
from effnet_cli.engines.normalise import Pixels, normalise
from effnet_cli.engines.registry import plan_engine
from effnet_cli.export.agreement import REFERENCE, CandidateForm, compare, find_violation
from effnet_cli.export.calibration import measure_ranges
from effnet_cli.export.exact_int8 import ExactInt8Engine
from effnet_cli.export.files import describe, put_in_place, scratch_folder, write_target
from effnet_cli.export.formats import comparison_dict
from effnet_cli.export.map_agreement import compare_maps
from effnet_cli.export.quantize import choose_recipe
from effnet_cli.export.records import EXACT_INT8, ExportComparison, ExportResult
from effnet_cli.export.samples import ImageSet, choose_images
from effnet_cli.export.source import ExportSource
from effnet_cli.export.targets import TARGETS
from effnet_cli.export.validate import choose_path, validate_task
from effnet_cli.models import build
from effnet_cli.models.weights import Model, resolve_model
from effnet_cli.options import (
    EngineChoice,
    EngineOptions,
    ExportOptions,
    ExportTask,
    ModelOptions,
)
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.files import is_file
from effnet_cli.system.reporter import SILENT, Reporter
from effnet_cli.system.text import pluralize

MIN_CALIBRATION = 32  # images; the ranges of fewer are not reliable
RECIPE_IMAGES = 32  # calibration images used to choose between recipes


def export(task: ExportTask, reporter: Reporter = SILENT) -> ExportResult:
    """Export the model of `task` to its target, run the file, and compare it with the model.

    Raises:
        UsageError: the target does not support the task, or a file or folder is unsuitable.
        EffnetError: a library or the weights are missing, or the file cannot be written or run.
    """
    started = time.perf_counter()
    task = validate_task(task)
    options, target = task.options, TARGETS[task.options.target]
    if task.model.model is not None and is_file(task.model.model):
        build.check_has_weights(task.model.model)
    model = resolve_model(task.model, reporter)
    final = choose_path(task, target, model)
    calibration, images = choose_images(task, model.card, reporter)
    source = _load_source(model, options)
    if calibration is not None:
        source = _quantize(source, calibration, task, reporter=reporter)
    with scratch_folder(final) as scratch:
        what = (
            f"the feature maps of {model.variant.name}"
            if options.feature_maps
            else model.variant.name
        )
        reporter.note(f"Exporting {what} to {options.target}, {options.output_precision}")
        path = scratch / final.name
        with _explain_large_batch(options):
            write_target(source, path)
            comparison = ExportComparison(images.name)
            if target.not_compared is None:
                comparison = _compare(source, path, images, task=task, reporter=reporter)
        check = comparison_dict(comparison, target.not_compared)
        describe(source, path, check)
        is_kept = comparison.rejection is None or task.force
        if is_kept:
            put_in_place(path, final, target)
    return ExportResult(
        target=options.target,
        precision=options.output_precision,
        path=final if is_kept else None,
        not_compared=target.not_compared,
        comparison=comparison,
        seconds=time.perf_counter() - started,
    )


def _load_source(model: Model, options: ExportOptions) -> ExportSource:
    details = asdict(options) | {"source_sha256": model.sha256, "effnet": __version__}
    if options.feature_maps:
        maps = model.variant.architecture.feature_maps()
        details["outputs"] = [
            {"name": one.name, "channels": one.channels, "stride": one.stride} for one in maps
        ]
    card = replace(model.card, export=details)
    if TARGETS[options.target].has_graph and not options.include_features:
        card = replace(card, familiarity=None)  # it needs the features
    return ExportSource(model, card, options, module=build.load_module(model))


def _quantize(
    source: ExportSource, images: ImageSet, task: ExportTask, *, reporter: Reporter
) -> ExportSource:
    """Return the source with an int8 recipe calibrated on `images`."""
    graph, recipe_images = source.float_graph(), list[Pixels]()

    def load() -> Iterator[Pixels]:
        for image in images.load(source.card, task.images, reporter=reporter, step="Calibrating"):
            pixels = normalise(image.crop, source.card.preprocessing)
            if len(recipe_images) < RECIPE_IMAGES:
                recipe_images.append(pixels)
            yield pixels

    weight_bits = TARGETS[source.options.target].weight_bits
    calibration = measure_ranges(graph, load())
    recipe = choose_recipe(graph, calibration, recipe_images, weight_bits=weight_bits)
    reporter.note(
        f"Calibrated on {images.num_views} views of {images.name}; ranges: {recipe.calibrator}"
    )
    if len(images.paths) < MIN_CALIBRATION:
        reporter.note(
            f"{images.name} has only {pluralize(len(images.paths), 'image')}, too few for reliable "
            f"ranges; use at least {MIN_CALIBRATION} that resemble those the model will see"
        )
    details = {"ranges": recipe.calibrator, "weight_bits": weight_bits}
    card = replace(source.card, export={**source.card.export, **details})
    return replace(source, card=card, recipe=recipe)


def _compare(
    source: ExportSource, path: Path, images: ImageSet, *, task: ExportTask, reporter: Reporter
) -> ExportComparison:
    """Compare the file, and an fp32 export if the file is less precise, with torch in fp32."""
    options = source.options
    if options.feature_maps:
        crops = images.load(source.card, task.images, reporter=reporter, step="Comparing")
        return compare_maps(source, path, crops, image_set=images.name)
    torch = plan_engine(EngineOptions("cpu", "torch")).load(source.model)
    candidates = [CandidateForm(REFERENCE, torch, source.model.path.stat().st_size)]
    if options.output_precision != "fp32":
        fp32, fp32_path = source.in_fp32(), path.parent / "fp32" / path.name
        write_target(fp32, fp32_path)
        candidates.append(_load_candidate(fp32.options, fp32_path))
    if source.recipe is not None:
        exact = ExactInt8Engine(source, source.recipe)
        candidates.append(CandidateForm(EXACT_INT8, exact, size_bytes=None))
    candidates.append(_load_candidate(options, path))
    comparison = compare(
        candidates,
        images.load(source.card, task.images, reporter=reporter, step="Comparing"),
        image_set=images.name,
        batch=options.batch or 1,
        card=source.card,
    )
    rejection = find_violation(
        comparison, precision=options.output_precision, max_drop=task.max_drop or 0.0
    )
    return replace(comparison, rejection=rejection)


def _load_candidate(options: ExportOptions, path: Path) -> CandidateForm:
    """Load an exported file as `predict --model` does."""
    model = resolve_model(ModelOptions(model=path))
    choice: EngineChoice = "auto" if TARGETS[options.target].has_graph else "torch"
    engine = plan_engine(EngineOptions("cpu", choice), model.file_kind).load(model)
    files = TARGETS[options.target].list_files(path) if path.is_file() else [*path.iterdir()]
    size = sum(file.stat().st_size for file in files)
    return CandidateForm(f"{options.target} {options.output_precision}", engine, size)


@contextmanager
def _explain_large_batch(options: ExportOptions) -> Iterator[None]:
    """Replace the many errors that libraries raise for too large a batch with one."""
    try:
        yield
    except (MemoryError, RuntimeError, CannotRunError) as error:
        if (options.batch or 1) == 1:
            raise
        raise EffnetError(
            f"The {options.target} file failed to run with --batch {options.batch}; it may need "
            "more memory than is available.",
            "Use a smaller --batch, or omit it.",
        ) from error
