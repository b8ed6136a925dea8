"""What becomes of the answers of `effnet predict`: written, shown, filed, explained."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from effnet_cli import __version__
from effnet_cli.cli.out import show_data
from effnet_cli.options import (
    EngineOptions,
    Format,
    GroupBy,
    ImageOptions,
    ModelOptions,
    OrganizeOptions,
    PredictOptions,
)
from effnet_cli.system.errors import UsageError

if TYPE_CHECKING:
    from effnet_cli.output.progress import PlainReporter
    from effnet_cli.predict.classifier import Classifier
    from effnet_cli.predict.gallery import Gallery
    from effnet_cli.predict.gradcam import Explainer
    from effnet_cli.predict.organize import Filing
    from effnet_cli.predict.records import ImageResult
    from effnet_cli.predict.resume import Journal

    Encode = Callable[[Iterable[ImageResult]], Iterator[str]]


@dataclass(frozen=True)
class Wish:
    """What a person wants of the answers: files of rows, a page, overlays, a look at the images,
    the images in folders.
    """

    format: Format | None
    outputs: tuple[Path, ...]
    is_resumed: bool
    html: Path | None
    explain: Path | None
    has_preview: bool
    copy_to: Path | None
    moves: bool
    group_by: GroupBy

    @property
    def needs_crops(self) -> bool:
        """Whether something shows what the network saw."""
        return self.has_preview or self.html is not None or self.explain is not None

    def check(self) -> None:
        """Refuse at once what could not be done in the end.

        Raises:
            UsageError: options that do not go together, or a file that cannot be written.
        """
        for is_fault, message, hint in self._faults():
            if is_fault:
                raise UsageError(message, hint)
        if self.outputs:
            from effnet_cli.output.writers import check_output, choose_format  # these import NumPy

            for path in self.outputs:
                check_output(path, "--output")
                choose_format(self.format, path)

    def _faults(self) -> Iterator[tuple[bool, str, str]]:
        files = [path.resolve() for path in (*self.outputs, self.html) if path]
        yield (
            len(set(files)) < len(files),
            f"{str(files[-1])!r} is named for two things." if files else "",
            "Name a file for each of them.",
        )
        yield (
            self.explain is not None and self.explain.exists() and not self.explain.is_dir(),
            f"--explain {str(self.explain)!r} is no folder.",
            "Name a folder, or a new one.",
        )
        yield (
            self.is_resumed and not self.outputs,
            "--resume goes on with a file of answers.",
            "Add --output FILE.",
        )
        yield (
            len(self.outputs) > 1 and self.format is not None,
            f"--format {self.format} is for one file, and there are {len(self.outputs)}.",
            "Leave it out: their names say what they are.",
        )
        yield (
            self.moves and self.copy_to is None,
            "--move needs a place to move images to.",
            "Add --copy-to DIR.",
        )
        yield (
            self.moves and self.is_resumed,
            "--resume compares the inputs, and --move has taken some of them away.",
            "Leave out --resume, and name another --output for what is left.",
        )


@dataclass(frozen=True)
class Answering:
    """One run of `effnet predict`."""

    inputs: list[str]
    model: ModelOptions
    engine: EngineOptions
    images: ImageOptions
    options: PredictOptions
    wish: Wish

    def __call__(self, reporter: "PlainReporter") -> int:
        """Answer, and write the rows where they are wanted; the exit status."""
        from effnet_cli.images.finder import Finder
        from effnet_cli.predict.classifier import Classifier
        from effnet_cli.predict.summary import RunSummary

        self._check_inputs()
        classifier = Classifier(self.model, self.engine, self.images, self.options, reporter)
        filing, explainer, gallery = (
            self._filing(reporter),
            self._explainer(),
            self._gallery(classifier),
        )
        finder = Finder(self.inputs)
        with ExitStack() as stack:
            journal = self._journal(stack, classifier, reporter)
            tally = RunSummary(journal.earlier if journal else 0)
            # from here on the engine loads, while what draws tables is imported
            answers = classifier.predict(
                journal.missing(finder) if journal else finder, has_lookahead=not finder.is_stream
            )
            if explainer and self.wish.explain:
                answers = explainer.watch(answers, self.wish.explain)
            if filing:
                answers = filing.watch(answers)
            if journal:
                answers = chain(journal.earlier_rows(), journal.keep(answers))
            if gallery:
                answers = gallery.watch(answers)
            self._write(reporter.track(tally.count(answers), finder.count), journal, reporter)
            if gallery:
                self._write_page(gallery)
        reporter.note(tally.summary(finder))
        for line in self._farewell(filing):
            reporter.note(line)
        return 1 if tally.failed or (filing and filing.failed) else 0

    def _check_inputs(self) -> None:
        """No answer is written over what is asked about.

        Raises:
            UsageError: a file is an input, or a list of them, and is to be written.
        """
        from effnet_cli.output.writers import check_not_read

        for output in filter(None, (*self.wish.outputs, self.wish.html)):
            read = (Path(path) for text in self.inputs for path in (text, text.removeprefix("@")))
            check_not_read(output, read)

    def _farewell(self, filing: "Filing | None") -> Iterator[str]:
        """What there is now besides the rows."""
        if filing:
            yield filing.summary
        if self.wish.explain:
            yield f"{str(self.wish.explain)!r} has the images with what speaks for their answers."
        if self.wish.html:
            yield f"{str(self.wish.html)!r} is written."

    def _filing(self, reporter: "PlainReporter") -> "Filing | None":
        wish = self.wish
        if wish.copy_to is None:
            return None
        from effnet_cli.predict.organize import Filing

        options = OrganizeOptions(wish.copy_to, wish.moves, wish.group_by)
        return Filing(options, self.inputs, reporter.warn)

    def _explainer(self) -> "Explainer | None":
        if self.wish.explain is None:
            return None
        from effnet_cli.predict.gradcam import Explainer

        return Explainer(self.model, self.images)

    def _gallery(self, classifier: "Classifier") -> "Gallery | None":
        if self.wish.html is None:
            return None
        from effnet_cli.predict.gallery import Gallery

        common = self._common(classifier)
        heading = ("model", "engine", "precision")
        choices = [
            (name.replace("_", " "), str(value))
            for name, value in common.items()
            if name not in heading and value is not None
        ]
        return Gallery(classifier.name, f"{classifier.engine}, {classifier.precision}", choices)

    def _journal(
        self, stack: ExitStack, classifier: "Classifier", reporter: "PlainReporter"
    ) -> "Journal | None":
        """The rows as they come, for runs that write files."""
        if not self.wish.outputs:
            return None
        from effnet_cli.predict.resume import journal

        return stack.enter_context(
            journal(self.wish.outputs[0], self._common(classifier), self.wish.is_resumed, reporter)
        )

    def _common(self, classifier: "Classifier") -> dict[str, object]:
        """What the rows depend on besides the images."""
        whatever = ImageOptions()  # what changes no answer is left out
        images = replace(
            self.images,
            isolate=whatever.isolate,
            timeout_s=whatever.timeout_s,
            offline=whatever.offline,
        )
        options = asdict(self.options)
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

    def _write(
        self, answers: "Iterator[ImageResult]", journal: "Journal | None", reporter: "PlainReporter"
    ) -> None:
        """The rows to stdout as they come, or to files when all are there."""
        from effnet_cli.output.writers import choose_format, write

        wish = self.wish
        if journal is None:
            format_ = choose_format(wish.format, None)
            pieces = self._encoder(format_, reporter)(answers)
            if format_ == "table":
                write(pieces, None)
            else:
                show_data(pieces, format_)
            return
        for _ in answers:
            pass
        for output in wish.outputs:
            encode = self._encoder(choose_format(wish.format, output), reporter)
            write(encode(journal.rows()), output)

    def _encoder(self, format_: Format, reporter: "PlainReporter") -> "Encode":
        """What makes text of predictions; only the table needs rich."""
        if format_ != "table":
            from effnet_cli.predict.formats import ENCODERS

            return ENCODERS[format_]
        from effnet_cli.output.terminal import can_draw_images, render
        from effnet_cli.predict.table import blocks, preview_blocks

        if self.wish.has_preview and not self.wish.outputs:
            if can_draw_images():
                return lambda results: render(preview_blocks(results))
            reporter.note("--preview needs a terminal with colors.")
        return lambda results: render(blocks(results))

    def _write_page(self, gallery: "Gallery") -> None:
        from effnet_cli.output.writers import write
        from effnet_cli.predict.page import gallery_page

        write([gallery_page(gallery)], self.wish.html)
