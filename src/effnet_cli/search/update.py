"""Bring an index up to date: only new and changed files are opened."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from effnet_cli.embed.embedder import Embedder, digest_source
from effnet_cli.images.finder import Finder, ImageInput, Url
from effnet_cli.images.thumbnails import encode_thumbnail
from effnet_cli.predict.pipeline import ScoredImage
from effnet_cli.predict.records import ErrorInfo
from effnet_cli.search.changes import ChangedStore, NewContent
from effnet_cli.search.records import Change, IndexedImage, IndexSummary
from effnet_cli.search.store import Entry, Stamp
from effnet_cli.system.errors import ImageError, UsageError

IMAGES_PER_COMMIT = 256  # a kill loses at most the work on these
IMAGES_PER_ROUND = 16 * IMAGES_PER_COMMIT  # that are known to be new before they are embedded
KEPT_LABELS = 5
INDEX_THUMBNAIL_PX = 96  # longer side: about 2 kB


class NewImage(NamedTuple):
    """An image to embed."""

    path: str
    stamp: Stamp
    change: Change


@dataclass(slots=True)
class Update:
    """One pass over `inputs`, absolute paths of folders and images.

    Iterate over `run` to its end; then `summary` says what changed. Images that are not below
    `inputs` stay as they are. With `allow_empty`, folders may have lost all their images.
    """

    store: ChangedStore
    embedder: Embedder
    inputs: Sequence[str]
    allow_empty: bool = False
    changes: Counter[Change] = field(default_factory=Counter)
    unchanged: int = 0
    _known: dict[bytes, Entry] = field(default_factory=dict)
    _unreadable: list[str] = field(default_factory=list)  # folders
    _empty: dict[str, ImageError] = field(default_factory=dict)  # inputs

    def run(self) -> Iterator[IndexedImage]:
        """Yield the images whose entry changes, and those that cannot be read.

        What was yielded is kept even if the process is killed.

        Raises:
            UsageError: a folder has no image any more, or an input is no file or folder.
            EffnetError: the engine cannot be used, or the index cannot be written.
        """
        self._known = self.store.entries()
        for one in self._changes():
            self.changes[one.change] += 1
            yield one

    def summary(self, name: str) -> IndexSummary:
        """Return what the index has now, and what changed."""
        images, failed = self.store.count()
        return IndexSummary(name, images, failed, unchanged=self.unchanged, changes=self.changes)

    def _changes(self) -> Iterator[IndexedImage]:
        found = self._find_new()
        while first := list(islice(found, IMAGES_PER_ROUND)):
            self.store.commit()  # before anything is reported
            yield from (one for one in first if isinstance(one, IndexedImage))
            yield from self._embed([one for one in first if isinstance(one, NewImage)])
        removed = list(self._remove_missing())
        self.store.commit()
        yield from removed

    # --- new and changed images ------------------------------------------------------------------

    def _find_new(self) -> Iterator[NewImage | IndexedImage]:
        """Yield the images to embed, and those that need no work; take all out of `_known`."""
        for one in Finder(self._existing()):
            if one.error is not None:
                if one.name in self.inputs and os.path.isdir(one.name):
                    self._empty[one.name] = one.error
                else:
                    self._unreadable.append(one.name)
                    yield _describe_failure(one.name, one.error)
                continue
            if isinstance(one.source, Url) or not isinstance(one.source, str):
                raise UsageError(f"{one.name!r} is not a file.", "Index files and folders.")
            stamp = _stamp(one.name)
            entry = self._known.pop(os.fsencode(one.name), None)
            row = None if entry and entry.stamp == stamp else self._take_copy(one.name, stamp)
            if entry is not None and (entry.stamp == stamp or row == entry.row is not None):
                self.unchanged += 1
            elif row is not None:
                yield IndexedImage(one.name, "copied")
            else:
                yield NewImage(one.name, stamp, "added" if entry is None else "changed")

    def _existing(self) -> list[str]:
        """Return the inputs that exist; refuse others, unless their images are to be removed."""
        existing = [path for path in self.inputs if os.path.lexists(path)]
        missing = [path for path in self.inputs if path not in existing]
        if missing and not self.allow_empty:
            hint = "Check the path, and that the disk is mounted; to remove images, --allow-empty."
            raise UsageError(f"{missing[0]!r} does not exist.", hint)
        return existing

    def _take_copy(self, path: str, stamp: Stamp) -> int | None:
        """Take over the row of a file with the same content, which may have been moved."""
        if not self.store.has_size(stamp.size):
            return None
        row = self.store.find_row(digest_source(path))
        if row is not None:
            self.store.put(path, stamp, row)
        return row

    def _embed(self, images: Sequence[NewImage]) -> Iterator[IndexedImage]:
        inputs = (ImageInput(one.path, one.path) for one in images)
        results = zip(images, self.embedder.run(inputs, self._make_content), strict=True)
        while batch := list(islice(results, IMAGES_PER_COMMIT)):
            yield from self._save(batch)

    def _make_content(
        self, one: ImageInput, scored: ScoredImage | ImageError
    ) -> NewContent | ImageError:
        if isinstance(scored, ImageError):
            return scored
        probabilities = self.embedder.to_probabilities(scored.scores)
        best = np.argsort(-probabilities, kind="stable")[:KEPT_LABELS]
        return NewContent(
            digest_source(one.source),
            self.embedder.to_vector(scored),
            labels=[(int(index), float(probabilities[index])) for index in best],
            thumbnail=encode_thumbnail(scored.crops[0], INDEX_THUMBNAIL_PX),
        )

    def _save(
        self, batch: Sequence[tuple[NewImage, NewContent | ImageError]]
    ) -> list[IndexedImage]:
        """Save the vectors of images, so that they can be reported."""
        contents = {one.sha256: one for _, one in batch if isinstance(one, NewContent)}
        rows = {sha256: self.store.find_row(sha256) for sha256 in contents}
        new = [sha256 for sha256, row in rows.items() if row is None]
        added = self.store.add([contents[sha256] for sha256 in new])
        rows |= dict(zip(new, added, strict=True))
        saved = []
        for image, content in batch:
            if isinstance(content, ImageError):
                error = ErrorInfo(content.kind, content.message)
                self.store.put_error(image.path, image.stamp, error)
                saved.append(IndexedImage(image.path, "failed", error))
            else:
                self.store.put(image.path, image.stamp, rows[content.sha256])
                saved.append(IndexedImage(image.path, image.change))
        self.store.commit()
        return saved

    # --- removed images --------------------------------------------------------------------------

    def _remove_missing(self) -> Iterator[IndexedImage]:
        """Remove the images below the inputs that were not found."""
        kept = tuple(os.path.join(os.fsencode(path), b"") for path in self._unreadable)
        for text in self.inputs:
            top = os.fsencode(text)
            inside = os.path.join(top, b"")
            missing = [
                path
                for path in self._known
                if (path == top or path.startswith(inside)) and not path.startswith(kept)
            ]
            if text in self._empty and not missing:
                yield _describe_failure(text, self._empty[text])
            elif text in self._empty and not self.allow_empty:
                raise UsageError(
                    f"{text!r} has no images now, but the index has {len(missing):,} of it.",
                    "Check that the disk is mounted; if they were deleted, add --allow-empty.",
                )
            for path in missing:
                self.store.remove(path)
                del self._known[path]
                yield IndexedImage(os.fsdecode(path), "removed")


def _describe_failure(path: str, error: ImageError) -> IndexedImage:
    return IndexedImage(path, "failed", ErrorInfo(error.kind, error.message))


def _stamp(path: str) -> Stamp:
    """Return size and time of a file; zeros if there is none, as it cannot be opened either."""
    with suppress(OSError, ValueError):
        status = os.stat(path)
        return Stamp(status.st_size, status.st_mtime_ns)
    return Stamp(0, 0)
