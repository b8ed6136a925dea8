"""Find the images that a table names, also if they were moved or their suffixes are missing."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import chain, islice
from pathlib import Path, PurePosixPath

from effnet_cli.datasets.findings import Finding, note
from effnet_cli.datasets.split import parse_split
from effnet_cli.images.archives import is_file
from effnet_cli.images.finder import is_ignored, is_image_name

TABLE_FOLDERS = ("annotations", "labels", "metadata")  # beside the folders of the images
UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-")  # of Label Studio, before the name of the file
ODD_PATH = re.compile(r"//|/\.|[\\:]|/$")  # of which the short way to join makes another path
ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:|[a-z0-9]+://", re.IGNORECASE)
PROBED = 200  # paths that decide whether they are used as they are
Tail = tuple[str, ...]


class PathResolver:
    """Turns the paths of a table into paths below `folder`, which holds the table.

    If none of the first paths leads to a file, those of another machine are meant: what they all
    have in common is removed, and the image below `folder` whose path ends like the rest is used.
    A path without suffix then matches an image of any format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._prefix = str(folder / "x")[:-1]
        is_apart = folder.name.lower() in TABLE_FOLDERS
        self._top = folder.parent if is_apart else folder
        self._is_direct = True
        self._common = 0  # leading parts that all paths share
        self._index: dict[str, list[str]] | None = None
        self._folders: frozenset[str] | None = None
        self._example: tuple[str, str] | None = None

    def count_found(self, texts: Iterable[str]) -> int:
        """Count the paths that lead to a file, as they are or by their names."""
        return sum(self._leads_to_file(text) for text in texts)

    def learn(self, texts: Iterable[str]) -> None:
        """Decide from all paths of the table how to read them."""
        rest = iter(texts)
        first = list(islice(rest, PROBED))
        self._is_direct = any(map(self._exists, first))
        if not self._is_direct:
            folders = (_split(text)[:-1] for text in chain(first, rest))
            self._common = len(reduce(_common_start, folders)) if first else 0

    def resolve(self, text: str) -> str | None:
        """Return the path that a text of the table means; `None` if it could mean several files.

        A path that leads nowhere is returned as it is, relative to the folder.
        """
        if self._is_direct:
            has_other_separator = "\\" in text and not os.path.lexists(self._join(text))
            return self._join(text.replace("\\", "/") if has_other_separator else text)
        found = self._find_moved(text)
        if len(found) > 1:
            return None
        if not found:
            return self._join(text)
        self._example = self._example or (text, found[0])
        return found[0]

    def _find_moved(self, text: str) -> list[str]:
        """Return the files that a path of another place could mean.

        What all paths share is removed, except a folder that is also below ours. A path that is not
        absolute then leads to our own folder, and one of a split to no other split.
        """
        parts, start = _split(text), self._common
        is_known = start > 0 and parts[start - 1] in self._list_folders()
        tail = tuple(parts[start - 1 if is_known else start :])
        found = self._find(tail)
        if is_known or not start:
            return found
        if not ABSOLUTE.match(text):
            return [path for path in found if Path(path).parent == self._top.joinpath(*tail[:-1])]
        split = parse_split(parts[start - 1])
        return [path for path in found if split is None or _is_in_split(path, split)]

    def _list_folders(self) -> frozenset[str]:
        """Return the names of the folders below ours that have images."""
        if self._folders is None:
            self._find(("",))
            paths = [Path(path) for found in (self._index or {}).values() for path in found]
            depth = len(self._top.parts)
            self._folders = frozenset(part for path in paths for part in path.parts[depth:-1])
        return self._folders

    def notes(self) -> Iterator[Finding]:
        """Say where images were found, if not where the table says."""
        if self._example is not None:
            text, path = self._example
            yield note(
                "moved_images", f"Paths of the table are matched by name: {text!r} is {path!r}."
            )

    def _leads_to_file(self, text: str) -> bool:
        return self._exists(text) or bool(self._find(tuple(_split(text)[-1:])))

    def _exists(self, text: str) -> bool:
        return any(is_file(self._join(one)) for one in {text, text.replace("\\", "/")})

    def _join(self, text: str) -> str:
        is_plain = text[:1] not in (".", os.sep) and not ODD_PATH.search(text)
        return self._prefix + text if is_plain else str(self.folder / text)

    def _find(self, tail: Tail) -> list[str]:
        """Return the files below the folder whose paths end like `tail`."""
        if not tail:
            return []
        if self._index is None:
            self._index = _index_files(self._top)
        found = self._index.get(tail[-1], [])
        if not found and UPLOAD_PREFIX.match(tail[-1]):
            tail = (*tail[:-1], UPLOAD_PREFIX.sub("", tail[-1], count=1))
            found = self._index.get(tail[-1], [])
        return [path for path in found if _ends_like(path, tail)]


def _is_in_split(path: str, split: int) -> bool:
    """Return whether the folders of a path name this split, or none."""
    named = {parse_split(part) for part in Path(path).parts[:-1]} - {None}
    return not named or split in named


def _split(text: str) -> list[str]:
    """Return the parts of a path or address, with either separator."""
    return [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]


def _common_start(one: list[str], other: list[str]) -> list[str]:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return one[:count]


def _ends_like(path: str, tail: Tail) -> bool:
    *folders, name = Path(path).parts
    own = [*folders[-len(tail) + 1 :], name] if len(tail) > 1 else [name]
    return tuple(own[:-1]) == tail[:-1] and tail[-1] in (name, PurePosixPath(name).stem)


def _index_files(folder: Path) -> dict[str, list[str]]:
    """Return the images below a folder by their names, with and without suffix."""
    index: dict[str, list[str]] = defaultdict(list)
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_ignored(name))
        for name in names:
            if not is_ignored(name) and is_image_name(name):
                path = str(Path(top, name))
                index[name].append(path)
                index[Path(name).stem].append(path)
    return index
