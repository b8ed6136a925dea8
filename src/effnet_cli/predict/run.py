"""`effnet predict`: inputs in, rows out; resumed, explained and organized as the options say."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from effnet_cli import __version__
from effnet_cli.images.finder import Finder
from effnet_cli.options import PredictOutputs, PredictTask
from effnet_cli.output.out import Output
from effnet_cli.predict.classifier import Classifier
from effnet_cli.predict.records import ImageResult, ResultRow
from effnet_cli.predict.summary import RunSummary

if TYPE_CHECKING:  # imported where they are needed
    from effnet_cli.predict.gallery import Gallery
    from effnet_cli.predict.gradcam import GradCam
    from effnet_cli.predict.organize import Organizer
    from effnet_cli.predict.resume import Journal

# Settings that do not change predictions: a run may be resumed with others.
IRRELEVANT = frozenset({"isolate", "timeout_s", "offline", "batch_size", "workers", "keep_crops"})


@dataclass(frozen=True)
class PredictRun:
    """A run whose model is resolved and whose files are open."""

    outputs: PredictOutputs
    classifier: Classifier
    finder: Finder
    summary: RunSummary
    journal: "Journal | None"
    organizer: "Organizer | None"
    gradcam: "GradCam | None"
    gallery: "Gallery | None"

    def rows(self) -> Iterator[ResultRow]:
        """One row per input, in order; the engine loads from here on."""
        inputs = self.journal.skip_earlier(self.finder) if self.journal else self.finder
        has_lookahead = not self.finder.is_stream
        return self._rows(self.classifier.predict(inputs, has_lookahead=has_lookahead))

    def _rows(self, results: Iterable[ImageResult]) -> Iterator[ResultRow]:
        if self.journal:
            for row in self.journal.earlier_rows():
                self._count(row)
                yield row
        for result in results:
            row = self._finish(result)
            if self.journal:
                self.journal.append(row)
            self._count(row)
            yield row

    def _finish(self, result: ImageResult) -> ResultRow:
        overlay = placement = None
        if self.gradcam and self.outputs.explain:
            overlay = self.gradcam.save(result, self.outputs.explain)
        if self.organizer:
            placement = self.organizer.place(result)
        return ResultRow(result, overlay, placement)

    def _count(self, row: ResultRow) -> None:
        self.summary.add(row.result)
        if self.gallery:
            self.gallery.add(row)

    @property
    def has_failed(self) -> bool:
        """Whether an image failed, or could not be copied or moved."""
        return bool(self.summary.failed or (self.organizer and self.organizer.failed))

    def notes(self) -> Iterator[str]:
        """What was done."""
        yield self.summary.describe(self.finder)
        if self.organizer:
            yield self.organizer.summarize()
        if self.outputs.explain:
            yield f"Saved overlays to {str(self.outputs.explain)!r}."
        if self.outputs.html:
            yield f"Saved {str(self.outputs.html)!r}."


@contextmanager
def start_run(task: PredictTask, outputs: PredictOutputs, out: Output) -> Iterator[PredictRun]:
    """Resolve the model and open what the options ask for.

    Raises:
        UsageError: a model, a folder or a file to resume cannot be used.
        EffnetError: weights or a library are missing.
    """
    options = replace(task.options, keep_crops=outputs.needs_crops)
    images = replace(task.images, offline=task.model.offline)
    classifier = Classifier(task.model, task.engine, images=images, options=options, reporter=out)
    settings = _settings(task, classifier)
    with _open_journal(outputs, settings, out) as journal:
        yield PredictRun(
            outputs=outputs,
            classifier=classifier,
            finder=Finder(list(task.inputs)),
            summary=RunSummary(journal.earlier if journal else 0),
            journal=journal,
            organizer=_new_organizer(task, out),
            gradcam=_load_gradcam(task) if outputs.explain else None,
            gallery=_new_gallery(classifier, settings) if outputs.html else None,
        )


def _settings(task: PredictTask, classifier: Classifier) -> dict[str, object]:
    """What predictions depend on besides the images."""
    settings = {
        "effnet": __version__,
        "model": classifier.name,
        "sha256": classifier.digest,
        "engine": classifier.engine,
        "precision": classifier.precision,
        **asdict(task.images),
        **asdict(task.options),
    }
    return {name: value for name, value in settings.items() if name not in IRRELEVANT}


def _new_organizer(task: PredictTask, out: Output) -> "Organizer | None":
    if task.organize is None:
        return None
    from effnet_cli.predict.organize import Organizer

    return Organizer(task.organize, out.warn)


def _load_gradcam(task: PredictTask) -> "GradCam":
    from effnet_cli.predict.gradcam import load_gradcam

    return load_gradcam(task.model, task.images)


def _new_gallery(classifier: Classifier, settings: dict[str, object]) -> "Gallery":
    from effnet_cli.predict.gallery import Gallery

    shown = [
        (name.replace("_", " "), str(value))
        for name, value in settings.items()
        if name not in ("model", "engine", "precision") and value is not None
    ]
    return Gallery(classifier.name, f"{classifier.engine}, {classifier.precision}", shown)


def _open_journal(
    outputs: PredictOutputs, settings: dict[str, object], out: Output
) -> "AbstractContextManager[Journal | None]":
    """The rows on disk as they come, for runs that write files."""
    if not outputs.files:
        return nullcontext()
    from effnet_cli.predict.resume import open_journal

    return open_journal(outputs.files[0], settings, is_resumed=outputs.resume, reporter=out)
