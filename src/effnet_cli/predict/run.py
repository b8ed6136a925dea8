"""Run `effnet predict`: classify the inputs, and resume, explain and organise as asked."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from effnet_cli import __version__
from effnet_cli.images.finder import Finder, ImageInput
from effnet_cli.options import LabelOptions, OrganizeOptions, PredictOutputs, PredictTask
from effnet_cli.output.journal import Journal, journal_path, open_journal
from effnet_cli.output.out import Output
from effnet_cli.output.summary import RunSummary
from effnet_cli.predict.classifier import Classifier
from effnet_cli.predict.formats import from_row, to_row
from effnet_cli.predict.gallery import Gallery
from effnet_cli.predict.operating_point import describe
from effnet_cli.predict.organize import Organizer
from effnet_cli.predict.records import ImageResult, ResultRow
from effnet_cli.system.errors import OutputClosed
from effnet_cli.system.fields import long_flag
from effnet_cli.system.reporter import Reporter

if TYPE_CHECKING:  # imports torch
    from effnet_cli.predict.gradcam import GradCam

# Options that do not change rows, so they may differ when a run is resumed.
IRRELEVANT = frozenset({"--isolate", "--timeout", "--batch-size", "--workers"})


@dataclass(frozen=True)
class PredictRun:
    """A run whose model is resolved and whose files are open."""

    outputs: PredictOutputs
    classifier: Classifier
    finder: Finder
    summary: RunSummary
    journal: Journal | None
    organizer: Organizer | None
    gradcam: "GradCam | None"
    gallery: Gallery | None

    def rows(self) -> Iterator[ResultRow]:
        """Yield one row per input, in order; the engine starts to load here."""
        journal = self.journal
        inputs = journal.skip_earlier(self.finder) if journal else self.finder
        results = self.classifier.predict(inputs, has_lookahead=not self.finder.is_stream)
        earlier = map(from_row, journal.rows(journal.earlier)) if journal else ()
        return map(self._count, itertools.chain(earlier, map(self._finish, results)))

    def count(self) -> int | None:
        """Count the images. Return `None` for a stream, or if the interrupted run moved some."""
        is_moved = self.organizer and self.outputs.resume and self.organizer.moves
        return None if is_moved else self.finder.count()

    def _finish(self, result: ImageResult) -> ResultRow:
        overlay = placed = None
        if self.gradcam and self.outputs.explain:
            overlay = self.gradcam.save(result, self.outputs.explain)
        if self.organizer:
            placed = self.organizer.place(result)
        row = ResultRow(result, overlay, placed)
        if self.journal:
            self.journal.append(to_row(row))
        return row

    def _count(self, row: ResultRow) -> ResultRow:
        error = row.result.error
        self.summary.add(error.kind if error else None, row.result.labels)
        if self.gallery:
            self.gallery.add(self._with_pixels(row))
        return row

    def _with_pixels(self, row: ResultRow) -> ResultRow:
        """Load the crop and the overlay of a row of the interrupted run, which has only paths."""
        is_shown = self.gallery is not None and not self.gallery.is_full
        if row.result.error or row.result.crop is not None or not is_shown:
            return row
        path = row.placed.path if row.placed else row.result.path  # it may have been moved
        result = replace(row.result, crop=self.classifier.load_crop(path))
        overlay = self.gradcam.read(row.overlay) if self.gradcam and row.overlay else None
        return replace(row, result=result, overlay=overlay)

    @property
    def has_failed(self) -> bool:
        """Whether an image failed, or could not be copied or moved."""
        return bool(self.summary.failed or (self.organizer and self.organizer.failed))

    def notes(self) -> Iterator[str]:
        """Yield notes about what was done."""
        if not self.classifier.card.is_calibrated:
            yield (
                f"The probabilities of {self.classifier.name} are not calibrated; "
                "`effnet evaluate --calibrate-to` calibrates them."
            )
        yield from self._describe_point()
        yield self.summary.describe(self.finder)
        if self.organizer:
            yield self.organizer.summarize()
        if self.outputs.explain:
            yield f"Saved overlays to {str(self.outputs.explain)!r}."
        if self.outputs.html:
            yield f"Saved {str(self.outputs.html)!r}."

    def _describe_point(self) -> Iterator[str]:
        point, precision = self.classifier.operating_point, self.classifier.precision
        if point is None:
            return
        yield describe(point)
        if precision != point.precision:
            yield (
                f"It was found in {point.precision}, and probabilities in {precision} differ. "
                f"Measure it: effnet evaluate DATA --model {self.classifier.name} "
                f"--at threshold={point.threshold:.15g} --positive {point.positive!r}"
            )


@contextmanager
def start_run(task: PredictTask, outputs: PredictOutputs, out: Output) -> Iterator[PredictRun]:
    """Resolve the model and open the files that the options name.

    Raises:
        UsageError: the model, a folder or the rows to resume from cannot be used.
        EffnetError: weights or a library are missing.
    """
    options = replace(task.options, keep_crops=outputs.needs_crops)
    classifier = Classifier(
        task.model, task.engine, images=task.images, options=options, reporter=out
    )
    settings = _settings(task, classifier)
    row_settings = settings | _file_settings(task, outputs)
    with ExitStack() as stack:
        journal, written = None, [path for path in (*outputs.files, outputs.html) if path]
        if outputs.files:
            # the interrupted run may have had the same outputs in another order
            first = next((f for f in outputs.files if journal_path(f).exists()), outputs.files[0])
            journal = stack.enter_context(
                open_journal(first, row_settings, is_resumed=outputs.resume, reporter=out)
            )
            written += journal.files
        organizer = Organizer(task.organize, out.warn) if task.organize else None
        if organizer:
            stack.enter_context(_summarize_if_stopped(organizer, out))
        yield PredictRun(
            outputs=outputs,
            classifier=classifier,
            finder=Finder(
                task.inputs,
                offline=task.model.offline,
                outputs=written,
                open_list=partial(_open_list, options=task.labels),
            ),
            summary=RunSummary(journal.earlier if journal else 0),
            journal=journal,
            organizer=organizer,
            gradcam=_load_gradcam(task) if outputs.explain else None,
            gallery=_new_gallery(classifier, settings) if outputs.html else None,
        )


def _open_list(path: str, options: LabelOptions) -> Iterator[ImageInput] | None:
    """Return the images of a table or an archive."""
    from effnet_cli.datasets.list_images import list_images  # few need it

    return list_images(path, options)


@contextmanager
def _summarize_if_stopped(organizer: Organizer, reporter: Reporter) -> Iterator[None]:
    """Note what has been copied or moved if the run does not reach its end."""
    try:
        yield
    except OutputClosed:
        raise
    except BaseException:  # Ctrl-C, too
        if organizer.placed:
            reporter.note(organizer.summarize())
        raise


def _settings(task: PredictTask, classifier: Classifier) -> dict[str, object]:
    """Return the settings that predictions depend on besides the images."""
    flags = {
        long_flag(field): getattr(group, field.name)
        for group in (task.images, task.options)
        for field in fields(group)
        if "help" in field.metadata
    }
    return {
        "effnet": __version__,
        "model": classifier.name,
        "sha256": classifier.sha256,
        "engine": classifier.engine,
        "precision": classifier.precision,
        **{flag: value for flag, value in flags.items() if flag not in IRRELEVANT},
    }


def _file_settings(task: PredictTask, outputs: PredictOutputs) -> dict[str, object]:
    """Return the settings that decide which files are written or moved for each image."""
    settings: dict[str, object] = {"--explain": outputs.explain and str(outputs.explain)}
    for field in fields(OrganizeOptions):
        value = getattr(task.organize, field.name, None)
        settings[long_flag(field)] = str(value) if isinstance(value, Path) else value
    return settings


def _load_gradcam(task: PredictTask) -> "GradCam":
    from effnet_cli.predict.gradcam import load_gradcam  # imports torch

    return load_gradcam(task.model, task.images)


def _new_gallery(classifier: Classifier, settings: dict[str, object]) -> Gallery:
    shown = [
        (name.removeprefix("--").replace("-", " "), str(value))
        for name, value in settings.items()
        if name not in ("model", "engine", "precision") and value is not None
    ]
    return Gallery(classifier.name, f"{classifier.engine}, {classifier.precision}", shown)
