"""`effnet predict`: images in, results out; resumed, explained, organized and collected on the way,
as the options say.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from effnet_cli import __version__
from effnet_cli.images.finder import Finder
from effnet_cli.options import ImageOptions, OrganizeOptions, PredictOutputs, PredictTask
from effnet_cli.output.out import Output
from effnet_cli.predict.classifier import Classifier
from effnet_cli.predict.records import ImageResult
from effnet_cli.predict.summary import RunSummary

if TYPE_CHECKING:
    from effnet_cli.predict.gallery import Gallery
    from effnet_cli.predict.gradcam import Explainer
    from effnet_cli.predict.organize import Filing
    from effnet_cli.predict.resume import Journal


@dataclass(frozen=True)
class PredictRun:
    """A run whose model is resolved and whose files are open."""

    outputs: PredictOutputs
    classifier: Classifier
    finder: Finder
    summary: RunSummary
    journal: "Journal | None"
    organizer: "Filing | None"
    explainer: "Explainer | None"
    gallery: "Gallery | None"

    def results(self) -> Iterator[ImageResult]:
        """One result for each input, in order; the engine is loaded from here on."""
        journal = self.journal
        images = journal.missing(self.finder) if journal else self.finder
        results = self.classifier.predict(images, has_lookahead=not self.finder.is_stream)
        if self.explainer and self.outputs.explain:
            results = self.explainer.watch(results, self.outputs.explain)
        if self.organizer:
            results = self.organizer.watch(results)
        if journal:
            results = chain(journal.earlier_rows(), journal.keep(results))
        if self.gallery:
            results = self.gallery.watch(results)
        return self.summary.count(results)

    @property
    def has_failed(self) -> bool:
        """Whether an image failed, or could not be copied or moved."""
        return bool(self.summary.failed or (self.organizer and self.organizer.failed))

    def notes(self) -> Iterator[str]:
        """What was done."""
        yield self.summary.summary(self.finder)
        if self.organizer:
            yield self.organizer.summary
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
    organizer = _organizer(task.organize, task.inputs, out)
    explainer = _explainer(task) if outputs.explain else None
    gallery = _gallery(classifier, settings) if outputs.html else None
    with _journal(outputs, settings, out) as journal:
        summary = RunSummary(journal.earlier if journal else 0)
        yield PredictRun(
            outputs=outputs,
            classifier=classifier,
            finder=Finder(list(task.inputs)),
            summary=summary,
            journal=journal,
            organizer=organizer,
            explainer=explainer,
            gallery=gallery,
        )


def _settings(task: PredictTask, classifier: Classifier) -> dict[str, object]:
    """What the results depend on besides the images."""
    irrelevant = ImageOptions()
    images = replace(task.images, isolate=irrelevant.isolate, timeout_s=irrelevant.timeout_s)
    options = asdict(task.options)
    for name in ("batch_size", "workers", "keep_crops"):
        del options[name]
    return {
        "effnet": __version__,
        "model": classifier.name,
        "sha256": classifier.digest,
        "engine": classifier.engine,
        "precision": classifier.precision,
        **asdict(images),
        **options,
    }


def _organizer(
    options: OrganizeOptions | None, inputs: tuple[str, ...], out: Output
) -> "Filing | None":
    if options is None:
        return None
    from effnet_cli.predict.organize import Filing

    return Filing(options, inputs, out.warn)


def _explainer(task: PredictTask) -> "Explainer":
    from effnet_cli.predict.gradcam import Explainer

    return Explainer(task.model, task.images)


def _gallery(classifier: Classifier, settings: dict[str, object]) -> "Gallery":
    from effnet_cli.predict.gallery import Gallery

    choices = [
        (name.replace("_", " "), str(value))
        for name, value in settings.items()
        if name not in ("model", "engine", "precision") and value is not None
    ]
    return Gallery(classifier.name, f"{classifier.engine}, {classifier.precision}", choices)


def _journal(
    outputs: PredictOutputs, settings: dict[str, object], out: Output
) -> "AbstractContextManager[Journal | None]":
    """The rows as they come, for runs that write files."""
    if not outputs.files:
        return nullcontext()
    from effnet_cli.predict.resume import journal

    return journal(outputs.files[0], settings, is_resumed=outputs.resume, reporter=out)
