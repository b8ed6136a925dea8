"""The Python interface: an index of images that can be searched."""

import glob
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from effnet_cli.embed.embedder import Embedder
from effnet_cli.images.finder import STDIN, Finder
from effnet_cli.options import (
    EmbedOptions,
    EngineOptions,
    ImageOptions,
    MatchOptions,
    ModelOptions,
)
from effnet_cli.predict.inputs import ImageLike, as_model_options
from effnet_cli.search import changes, store
from effnet_cli.search.places import index_folder, indexes_folder
from effnet_cli.search.query import Matcher
from effnet_cli.search.records import IndexInfo, IndexSummary, Match, QueryResult
from effnet_cli.search.update import Update
from effnet_cli.system.reporter import SILENT, Reporter

QUERIES_AT_ONCE = 64  # that are compared with the index in one pass


class Index:
    """An index of images: their vectors, in a folder of its own.

    Examples:
        >>> index = Index("photos")
        >>> index.update(["/home/ann/photos"])
        >>> [match.path for match in index.query("cat.jpg")]

    Args:
        name: a name, for a folder in the user's data folder, or a path.
        model: as for `Embedder`; by default, and for the other options, those of the index.
        engine: device, engine and precision.
        images: how images are decoded and cropped.
        options: pooling, batch size and threads.
        reporter: receives notes about downloads and compilation.

    Attributes:
        folder: the folder of the index.
    """

    def __init__(
        self,
        name: str | Path,
        model: str | Path | ModelOptions = ModelOptions(),
        *,
        engine: EngineOptions = EngineOptions(),
        images: ImageOptions = ImageOptions(),
        options: EmbedOptions = EmbedOptions(),
        reporter: Reporter = SILENT,
    ) -> None:
        self.name, self.folder = str(name), index_folder(str(name))
        self._model = as_model_options(model)
        self._engine, self._images, self._options = engine, images, options
        self._reporter = reporter

    def __len__(self) -> int:
        """Return the number of images; raise `UsageError` if there is no index."""
        with self.open() as opened:
            return opened.count()[0]

    @contextmanager
    def open(self) -> Iterator[store.Store]:
        """Open the files of the index.

        Raises:
            UsageError: there is none, or it is of another version.
            EffnetError: it is damaged.
        """
        with store.open_for_reading(self.folder) as opened:
            yield opened

    @cached_property
    def embedder(self) -> Embedder:
        """The model of the index, or the one for a new index."""
        model, options, images = self._model, self._options, self._images
        if store.exists(self.folder):
            with self.open() as opened:
                made_with, source = opened.model, opened.source
            is_default = (model.variant, model.model, model.weights) == (None, None, None)
            if is_default:
                model = ModelOptions(**made_with, offline=model.offline)
            images = ImageOptions(**source.settings) if images == ImageOptions() else images
            if options.pool is None and is_default:
                options = EmbedOptions(options.batch_size, options.workers, pool=source.pool)
        return Embedder(
            model, self._engine, images=images, options=options, reporter=self._reporter
        )

    @contextmanager
    def open_update(
        self, inputs: Sequence[str | Path], *, allow_empty: bool = False
    ) -> Iterator[Update]:
        """Open the index, creating it if needed, for an update from folders and images.

        Raises:
            UsageError: it has vectors of another model, or another process is changing it.
            EffnetError: it is damaged, or cannot be written.
        """
        embedder = self.embedder
        is_new = not store.exists(self.folder)
        meta: dict[str, Any] = {}
        if is_new:
            black = np.zeros((8, 8, 3), np.uint8)
            meta = {
                "model": _describe_model(self._model),
                "classes": list(embedder.card.classes),
                "dim": len(embedder(black)),
            }
        with changes.open_for_update(self.folder, embedder.source, meta) as opened:
            paths = [os.path.abspath(os.path.expanduser(one)) for one in inputs]
            yield Update(opened, embedder, paths, allow_empty=allow_empty)

    def update(self, inputs: Sequence[str | Path], *, allow_empty: bool = False) -> IndexSummary:
        """Add what is new in folders and images, and remove what is no longer there.

        Raises:
            UsageError: as `open_update`, or a folder has lost all its images.
            EffnetError: as `open_update`, or the engine cannot be used.
        """
        with self.open_update(inputs, allow_empty=allow_empty) as update:
            deque(update.run(), maxlen=0)
            return update.summary(self.name)

    def compact(self) -> int:
        """Remove the vectors of images that are no longer in the index; return how many.

        Raises:
            UsageError: there is no index, or another process is changing it.
            EffnetError: it is damaged, or cannot be written.
        """
        with self.open() as opened:
            source = opened.source
        with changes.open_for_update(self.folder, source, {}) as opened:
            return opened.compact()

    def describe(self) -> IndexInfo:
        """Return what the index has; raises like `open`."""
        with self.open() as opened:
            images, failed = opened.count()
            source = opened.source
        size = sum(path.stat().st_size for path in self.folder.iterdir())
        return IndexInfo(
            self.name,
            str(self.folder),
            source.model,
            pool=source.pool,
            images=images,
            failed=failed,
            size_bytes=size,
        )

    def query(self, image: ImageLike, options: MatchOptions = MatchOptions()) -> tuple[Match, ...]:
        """Return the images that resemble an image, best first.

        Raises:
            ImageError: the image cannot be decoded.
            UsageError: there is no index, or its model has changed.
        """
        with self.open() as opened:
            store.check_source(opened, self.embedder.source)
            vector = self.embedder(image)
            return Matcher(opened, options).match_vectors(vector[None])[0]

    def search(
        self, queries: Iterable[str], options: MatchOptions = MatchOptions()
    ) -> Iterator[QueryResult]:
        """Yield the matches of each query, in order: of images, folders of images, and words from
        the names of classes.

        Raises:
            UsageError: as `query`, or a query is neither a file nor a class.
        """
        with self.open() as opened:
            matcher = Matcher(opened, options)
            for text in queries:
                if _is_words(text):
                    yield QueryResult(text, matcher.match_class(text))
                else:
                    yield from self._search_images(opened, matcher, text)

    def _search_images(
        self, opened: store.Store, matcher: Matcher, text: str
    ) -> Iterator[QueryResult]:
        store.check_source(opened, self.embedder.source)
        images = self.embedder.embed(Finder([text], offline=self._model.offline))
        while chunk := list(islice(images, QUERIES_AT_ONCE)):
            vectors = [image.vector for image in chunk if image.vector is not None]
            found = iter(matcher.match_vectors(np.stack(vectors)) if vectors else ())
            for image in chunk:
                if image.error is not None:
                    yield QueryResult(image.path, error=image.error)
                else:
                    yield QueryResult(image.path, next(found))


def list_indexes() -> Iterator[Index]:
    """Yield the indexes that have names, in name order."""
    folder = indexes_folder()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if store.exists(path):
            yield Index(path.name)


def _is_words(text: str) -> bool:
    """Return whether a query names nothing that could be opened, so that it names a class."""
    is_input = text == STDIN or text.startswith("@") or "://" in text or glob.has_magic(text)
    return not is_input and not os.path.lexists(text)


def _describe_model(model: ModelOptions) -> dict[str, str | None]:
    """Return the options that select the model, with absolute paths."""
    paths = {
        name: None if path is None else str(path if "://" in str(path) else path.absolute())
        for name, path in (("model", model.model), ("weights", model.weights))
    }
    return {"variant": model.variant, **paths}
