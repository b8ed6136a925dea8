"""Find the images that a command's inputs name, one by one, to use little memory."""

import codecs
import glob
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple, cast

from PIL import Image

from effnet_cli.images.sniff import HEAD_BYTES, sniff
from effnet_cli.system.errors import ImageError, UsageError

OPENED_SUFFIXES = (
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .avif .ico .tga .icb"
    " .vda .vst .ppm .pgm .pbm .pnm .jp2 .j2k .jpf .jpx .j2c .dcm .dicom .ima"
)
# Images that effnet may not open: each gets an error instead of being skipped.
OTHER_SUFFIXES = (
    ".heic .heif .jxl .svg .psd .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .exr .hdr .xcf .nii"
)
IMAGE_SUFFIXES = frozenset(f"{OPENED_SUFFIXES} {OTHER_SUFFIXES}".split())
# Files that list or hold images: see `datasets.list_images`.
LIST_SUFFIXES = frozenset((
    ".csv", ".tsv", ".tab", ".psv", ".json", ".jsonl", ".ndjson", ".manifest", ".parquet", ".zip",
    ".tar",
))  # fmt: skip
# What operating systems leave in folders, besides names that start with a dot.
SYSTEM_NAMES = frozenset((
    "$recycle.bin", "@eadir", "__macosx", "desktop.ini", "ehthumbs.db", "icon\r", "lost+found",
    "system volume information", "thumbs.db",
))  # fmt: skip
STDIN = "-"
FOLDER_HINT = "Pass an image file, or a folder with images."
LIST_HINT = "After the @, pass a file with one path per line."
SkipReason = Literal["ignored", "not_image", "already_visited"]
Identity = tuple[int, int]  # the device and inode of a file or folder, whatever its name


class Url(str):
    """An image source that is a URL, not a path."""


class ImageInput(NamedTuple):
    """One input: its name for the user, and either the source to open or an error."""

    name: str
    source: str | bytes | Image.Image | None
    error: ImageError | None = None


@dataclass(slots=True)
class _OpenFolder:
    """A folder in the walk: its remaining entries, and whether it has yielded inputs so far."""

    path: str
    entries: Iterator[os.DirEntry[str] | ImageInput]
    has_inputs: bool = False


@dataclass(slots=True)
class Finder:
    """The images that `inputs` name, in order. Iterate over it only once.

    An input is a file, a folder (searched with all its subfolders, in name order), an http or
    https URL, a glob pattern, `@LIST` (a file with one path per line, or NUL-separated paths), or
    `-` (such a list, or the bytes of one image, on stdin). If a path exists, it takes precedence
    over every other meaning. Every input yields an `ImageInput`, but files in folders that are
    images neither by name nor by content are only counted in `not_images`. `on_skip` is called for
    whatever is skipped. Links to `outer_folders` (those around an input folder) are not followed.
    `outputs` are files that the command itself is writing. `open_list` returns the images that a
    file lists or holds, or `None` for other files.
    `offline` turns URLs into errors.
    """

    inputs: Sequence[str]
    stdin: io.BufferedReader | None = None
    offline: bool = False
    not_images: int = 0
    duplicate_links: int = 0
    on_skip: Callable[[SkipReason, str], None] = lambda reason, path: None
    outer_folders: frozenset[Identity] = frozenset()
    outputs: Collection[Path] = ()
    open_list: Callable[[str], Iterator[ImageInput] | None] = lambda path: None
    _visited: set[Identity] = field(default_factory=set)
    _linked: set[Identity] = field(default_factory=set)

    def __post_init__(self) -> None:
        if isinstance(self.inputs, str):
            raise TypeError(f"Finder takes a list of inputs, not the string {self.inputs!r}")

    @property
    def is_stream(self) -> bool:
        """Whether a program supplies inputs. It may be slow, and they can be read only once."""
        return any(text == STDIN or _is_piped_list(text) for text in self.inputs)

    def count(self) -> int | None:
        """Count the images with a separate search. Return `None` for a stream."""
        return (
            None
            if self.is_stream
            else sum(1 for _ in Finder(self.inputs, open_list=self.open_list))
        )

    def __iter__(self) -> Iterator[ImageInput]:
        for text in self.inputs:
            if text == STDIN:
                yield from self._read_stdin()
            elif _is_list(text):
                yield from self._read_list(text[1:])
            elif glob.has_magic(text) and not os.path.lexists(text) and not _is_url(text):
                yield from self._expand(text)
            else:
                yield from self._find(text)

    def _find(self, path: str) -> Iterator[ImageInput]:
        """Yield a file, a URL, or all images of a folder."""
        if _is_url(path):
            yield self._url_input(path)
            return
        if not os.path.isdir(path):
            may_list = os.path.splitext(path)[1].lower() in LIST_SUFFIXES
            listed = self.open_list(path) if may_list else None
            yield from [ImageInput(path, path)] if listed is None else listed
            return
        self._visited.clear()
        self._linked.clear()
        is_empty = True
        for one in self._walk(path):
            is_empty = False
            yield one
        if is_empty:
            yield _failed(path, "not_a_file", "This folder contains no images.", hint=FOLDER_HINT)

    def _url_input(self, text: str) -> ImageInput:
        scheme = text.partition("://")[0]
        if scheme.lower() not in ("http", "https"):
            message = f"{scheme}:// URLs are not supported, only http:// and https://."
            return _failed(text, "unreadable", message, hint="Download it first.")
        if self.offline:
            message = "URLs are not downloaded with --offline."
            return _failed(text, "unreadable", message, hint="Omit --offline.")
        return ImageInput(text, Url(text))

    def _walk(self, top: str) -> Iterator[ImageInput]:
        """Yield the images below `top`. Every folder and every linked file is visited once, so
        that loops of links end.
        """
        root = os.path.realpath(top)
        folders = [_OpenFolder(top, self._list(top, root))]
        while folders:
            folder = folders[-1]
            entry = next(folder.entries, None)
            if entry is None:
                folders.pop()
                if folders:
                    folders[-1].has_inputs |= folder.has_inputs
                    if not folder.has_inputs and is_image_name(folder.path):
                        message = "This is a folder, not an image file."
                        yield _failed(folder.path, "not_a_file", message, hint=FOLDER_HINT)
            elif isinstance(entry, ImageInput):
                folder.has_inputs = True
                yield entry
            elif _is_dir(entry):
                folders.append(_OpenFolder(entry.path, self._list(entry.path, root)))
            elif self._is_image(entry.path):
                folder.has_inputs = True
                yield ImageInput(entry.path, entry.path)

    def _list(self, folder: str, root: str) -> Iterator[os.DirEntry[str] | ImageInput]:
        """Yield a folder's entries in name order, or none if a link leads to it a second time.

        Duplicate links are found before the first entry is yielded, as their targets may be moved
        then.
        """
        try:
            identity = identify_folder(folder)
            if identity in self._visited or identity in self.outer_folders:
                self.on_skip("already_visited", folder)
                return
            self._visited.add(identity)
            with os.scandir(folder) as scan:
                entries = sorted(filter(self._is_wanted, scan), key=attrgetter("name"))
        except OSError as error:
            message = f"Cannot read the folder: {error.strerror}."
            yield _failed(folder, "unreadable", message, hint="Check its permissions.")
            return
        yield from [entry for entry in entries if not self._is_duplicate(entry, root)]

    def _is_wanted(self, entry: os.DirEntry[str]) -> bool:
        if is_ignored(entry.name) or self._is_output(entry):
            self.on_skip("ignored", entry.path)
            return False
        return True

    def _is_output(self, entry: os.DirEntry[str]) -> bool:
        same = [path for path in self.outputs if path.name == entry.name]
        return bool(same) and Path(entry.path).resolve() in [path.resolve() for path in same]

    def _is_image(self, path: str) -> bool:
        if _is_named_or_known(path):
            return True
        self.not_images += 1
        self.on_skip("not_image", path)
        return False

    def _is_duplicate(self, entry: os.DirEntry[str], root: str) -> bool:
        """Return whether this is a link to an image that is also found under another name."""
        if not entry.is_symlink() or _is_dir(entry) or not _is_named_or_known(entry.path):
            return False
        target = os.path.realpath(entry.path)
        try:
            identity = identify_folder(target)
        except OSError:  # a broken link: opening it says so
            return False
        is_inside = target.startswith(os.path.join(root, ""))
        if identity in self._linked or (
            is_inside
            and not any(map(is_ignored, os.path.relpath(target, root).split(os.sep)))
            and _is_named_or_known(target)
        ):
            self.duplicate_links += 1
            return True
        self._linked.add(identity)
        return False

    def _expand(self, pattern: str) -> Iterator[ImageInput]:
        paths = sorted(set(_match(pattern)))
        if not paths:
            hint = "Check the pattern, and quote it for the shell."
            yield _failed(pattern, "missing", "No file matches this pattern.", hint=hint)
        for path in paths:
            yield from self._find(path)

    def _read_list(self, path: str) -> Iterator[ImageInput]:
        with _open_list(path) as file:
            yield from self._read_lines(file)

    def _read_stdin(self) -> Iterator[ImageInput]:
        """Read paths or the bytes of one image, whichever the first bytes show. A path can begin
        like an image (`BMW.jpg`), so it counts as a path if the file exists.
        """
        if self.stdin is None and sys.stdin is None:
            raise UsageError("Cannot read stdin: it is closed.", "Pass files or folders.")
        stdin = self.stdin or cast(io.BufferedReader, sys.stdin.buffer)
        head = stdin.peek(HEAD_BYTES)
        first = re.split(rb"[\0\r\n]", head, maxsplit=1)[0]
        if sniff(head) is None or os.path.lexists(os.fsdecode(first)):
            yield from self._read_lines(stdin)
        else:
            yield ImageInput(STDIN, stdin.read())

    def _read_lines(self, file: io.BufferedReader) -> Iterator[ImageInput]:
        for number, line in enumerate(_split_lines(file)):
            if number == 0:
                line = line.removeprefix(codecs.BOM_UTF8)  # Windows editors put it there
            if line:
                yield from self._find(os.fsdecode(line))


def check_lists(inputs: Sequence[str]) -> None:
    """Raise `UsageError` if an `@LIST` cannot be read. Those that can be read only once (pipes) are
    not checked.
    """
    for text in filter(_is_list, inputs):
        path = text[1:]
        if os.path.isfile(path) or os.path.isdir(path) or not os.path.exists(path):
            with _open_list(path) as file:
                _check_encoding(file)


@contextmanager
def _open_list(path: str) -> Iterator[io.BufferedReader]:
    if not path:
        raise UsageError("'@' names no list.", LIST_HINT)
    try:
        with Path(path).open("rb") as file:
            content = sniff(file.peek(HEAD_BYTES)) if os.path.isfile(path) else None
            if content is not None and content.format is not None:
                message = f"The list {path!r} is {content.description}."
                raise UsageError(message, "Omit the @.")
            yield file
    except OSError as error:
        raise UsageError(f"Cannot read the list {path!r}: {error.strerror}.", LIST_HINT) from error


def _failed(name: str, kind: str, message: str, *, hint: str) -> ImageInput:
    return ImageInput(name, None, ImageError(kind, message, hint))


def identify_folder(path: str | Path) -> Identity:
    """Return a folder's identity, which is the same for every path to it."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _is_url(text: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None and not os.path.lexists(text)


def _is_list(text: str) -> bool:
    return text.startswith("@") and not os.path.lexists(text)


def _is_piped_list(text: str) -> bool:
    """Return whether this list can be read only once, as with a shell's `@<(find ...)`."""
    return _is_list(text) and not os.path.isfile(text[1:])


def _match(pattern: str) -> Iterator[str]:
    """Yield the paths that match a pattern. Unlike in the standard library, `**` does not enter
    linked folders, so that loops of links end.
    """
    separator = f"[/{re.escape(os.sep)}]"
    recursive = re.fullmatch(rf"(|.*?{separator})\*\*{separator}(.*)", pattern, re.DOTALL)
    if recursive is None:
        yield from glob.glob(pattern)
        return
    before, after = recursive.groups()
    for top in glob.glob(before) if before else [""]:
        for folder, subfolders, _ in os.walk(top or os.curdir):
            subfolders[:] = [name for name in subfolders if not is_ignored(name)]
            start = folder if top else folder[2:]  # without "./", as in other patterns
            yield from _match(os.path.join(glob.escape(start), after))


def _split_lines(file: io.BufferedReader) -> Iterator[bytes]:
    """Yield lines without line ends. If the first buffered bytes contain a NUL, split at NULs
    instead, as for `find -print0`.
    """
    _check_encoding(file)
    if b"\0" not in file.peek(1):
        for line in file:
            yield line.rstrip(b"\r\n")
        return
    rest = b""
    while chunk := file.read1(1 << 16):
        *paths, rest = (rest + chunk).split(b"\0")
        yield from paths
    yield from rest.split(b"\0")


def _check_encoding(file: io.BufferedReader) -> None:
    if file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise UsageError("The list must be UTF-8, not UTF-16.", "Save it as UTF-8.")


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def is_ignored(name: str) -> bool:
    """Return whether a name is hidden, or one that operating systems leave in folders."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def is_image_name(name: str) -> bool:
    """Return whether a file name has an image suffix."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _is_named_or_known(path: str) -> bool:
    return is_image_name(path) or is_image_content(path)


def is_image_content(path: str) -> bool:
    """Return whether the first bytes of a regular file are those of an image."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            content = sniff(file.read(HEAD_BYTES))
    except OSError:
        return False
    return content is not None and content.is_image
