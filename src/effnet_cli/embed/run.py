"""Run `effnet embed`: vectors of the inputs, resumed and reduced as asked."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from effnet_cli import __version__
from effnet_cli.datasets.list_images import list_images
from effnet_cli.embed.embedder import Embedder
from effnet_cli.embed.formats import from_record, to_record
from effnet_cli.embed.projection import Projection, fit_projection, load_projection
from effnet_cli.embed.records import EmbeddedImage
from effnet_cli.embed.vector_files import VectorFile, check_suffix, read_vectors
from effnet_cli.images.finder import Finder, check_lists
from effnet_cli.options import EmbedOutputs, EmbedTask
from effnet_cli.output.journal import Journal, open_journal
from effnet_cli.output.summary import RunSummary
from effnet_cli.output.writers import STDOUT, check_not_read, check_output
from effnet_cli.system.errors import UsageError
from effnet_cli.system.reporter import Reporter

PROJECTION_SUFFIX = ".projection.safetensors"


@dataclass(frozen=True)
class EmbedRun:
    """A run whose model is resolved and whose files are open.

    `projection` is the one that an earlier run found.
    """

    task: EmbedTask
    embedder: Embedder
    finder: Finder
    journal: Journal | None
    projection: Projection | None
    summary: RunSummary = field(default_factory=RunSummary)

    def images(self) -> Iterator[EmbeddedImage]:
        """Yield each input's vector, in order; the engine starts to load here.

        If they go to a file, they are not reduced yet.
        """
        journal = self.journal
        inputs = journal.skip_earlier(self.finder) if journal else self.finder
        earlier = map(from_record, journal.rows(journal.earlier)) if journal else ()
        found = self.embedder.embed(inputs, has_lookahead=not self.finder.is_stream)
        keep = self._keep if journal else self._reduce
        return map(self._count, itertools.chain(earlier, map(keep, found)))

    def write(self, output: Path) -> Iterator[Path]:
        """Write the vectors of the journal; yield the files."""
        projection, dim = self.projection, self.task.vectors.dim
        if dim is not None:
            vectors = read_vectors(self._read_journal())
            projection = fit_projection(vectors, dim, self.embedder.source)
            path = projection_path(output)
            projection.save(path)
            yield path
        vector_type = self.task.vectors.dtype
        file = VectorFile(
            self._read_journal, self.embedder.source, vector_type, projection=projection
        )
        file.write(output)
        yield output

    def _read_journal(self) -> Iterator[EmbeddedImage]:
        return map(from_record, self.journal.rows() if self.journal else ())

    def _keep(self, image: EmbeddedImage) -> EmbeddedImage:
        if self.journal:
            self.journal.append(to_record(image))
        return image

    def _reduce(self, image: EmbeddedImage) -> EmbeddedImage:
        if self.projection is None or image.vector is None:
            return image
        return replace(image, vector=self.projection.apply(image.vector[None])[0])

    def _count(self, image: EmbeddedImage) -> EmbeddedImage:
        self.summary.add(image.error.kind if image.error else None)
        return image


@contextmanager
def start_run(task: EmbedTask, outputs: EmbedOutputs, reporter: Reporter) -> Iterator[EmbedRun]:
    """Resolve the model, and open the journal if there is an output file.

    Raises:
        UsageError: the model, the output or the rows to resume from cannot be used.
        EffnetError: weights or a library are missing.
    """
    output = None if outputs.output == Path(STDOUT) else outputs.output
    written = _check(task, outputs, output)
    embedder = Embedder(
        task.model, task.engine, images=task.images, options=task.options, reporter=reporter
    )
    path = task.vectors.projection
    projection = load_projection(path, embedder.source) if path else None
    with ExitStack() as stack:
        journal = None
        if output is not None:
            settings = {"effnet": __version__, **asdict(embedder.source), "engine": embedder.engine}
            journal = stack.enter_context(
                open_journal(output, settings, is_resumed=outputs.resume, reporter=reporter)
            )
            written += journal.files
        finder = Finder(
            task.inputs,
            offline=task.model.offline,
            outputs=written,
            open_list=partial(list_images, options=task.labels),
        )
        summary = RunSummary(journal.earlier if journal else 0)
        yield EmbedRun(
            task, embedder, finder=finder, journal=journal, projection=projection, summary=summary
        )


def projection_path(output: Path) -> Path:
    """Return the path of the projection that --dim writes beside `output`."""
    return output.with_name(output.stem + PROJECTION_SUFFIX)


def _check(task: EmbedTask, outputs: EmbedOutputs, output: Path | None) -> list[Path]:
    """Return the files that will be written; refuse options that exclude each other."""
    vectors = task.vectors
    if vectors.dim is not None and vectors.projection is not None:
        message = "--dim finds a projection, but --projection names one."
        raise UsageError(message, "Omit one of them.")
    for flag, is_given in (("--dim", vectors.dim is not None), ("--resume", outputs.resume)):
        if output is None and is_given:
            raise UsageError(f"{flag} requires --output.", "Add --output FILE.parquet.")
    if output is None and vectors.dtype != "float32":
        message = f"--dtype {vectors.dtype} requires --output."
        raise UsageError(message, "Add --output FILE.parquet.")
    check_lists(task.inputs)
    if output is None:
        return []
    check_suffix(output)
    written = [output]
    if output.suffix.lower() == ".npy":
        written.append(output.with_suffix(".jsonl"))
    if vectors.dim is not None:
        written.append(projection_path(output))
    read = [Path(path) for text in task.inputs for path in (text, text.removeprefix("@"))]
    for path in written:
        check_output(path, "--output")
        check_not_read(path, read)
    return written
