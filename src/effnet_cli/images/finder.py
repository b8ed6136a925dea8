"""From what a person typed to the images it names, one by one, in flat memory."""

import codecs
import glob
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, cast

from PIL import Image

from effnet_cli.images.sniff import HEAD_BYTES, sniff
from effnet_cli.system.errors import ImageError, UsageError

OPENED_SUFFIXES = (
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .avif .ico .tga .icb"
    " .vda .vst .ppm .pgm .pbm .pnm .jp2 .j2k .jpf .jpx .j2c"
)
# Images to a person: that they cannot be opened is said, not passed over in silence.
OTHER_SUFFIXES = ".heic .heif .jxl .svg .psd .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .exr .hdr .xcf"
IMAGE_SUFFIXES = frozenset(f"{OPENED_SUFFIXES} {OTHER_SUFFIXES}".split())
# What systems leave in folders; names that start with a dot are ignored as well.
SYSTEM_NAMES = frozenset(
    (
        "$recycle.bin",
        "@eadir",
        "__macosx",
        "desktop.ini",
        "ehthumbs.db",
        "icon\r",
        "lost+found",
        "system volume information",
        "thumbs.db",
    )
)
STDIN = "-"
SkipReason = Literal["ignored", "not_image", "already_visited"]
Identity = tuple[int, int]  # the device and number of a file or folder, whatever its name


def _folder_error(message: str) -> ImageError:
    return ImageError("not_a_file", message, "Give an image file, or a folder that has some.")


class Url(str):
    """An image's source that is an address, not a path."""


class ImageInput(NamedTuple):
    """One input: its name as a person knows it, and the path or the bytes to open, or why there is
    nothing to open.
    """

    name: str
    source: str | bytes | Image.Image | None
    error: ImageError | None = None


class _Entry(NamedTuple):
    """One name in a folder."""

    path: str
    is_link: bool
    is_folder: bool


@dataclass(slots=True)
class _Level:
    """A folder that the walk is in: what is left of it, and whether it gave anything."""

    path: str
    entries: Iterator[_Entry | ImageInput]
    found: bool = False


@dataclass(slots=True)
class Finder:
    """The images that `inputs` name, in order; iterate once.

    An input is a file, a folder (searched with all its subfolders, in the order of the names), an
    address (http or https), a glob pattern, `@LIST` (a file with one path a line, or paths ended by
    NUL), or `-` (such a list, or one image's bytes, on stdin). A path that exists comes before
    every other meaning. What is named itself always gives an `ImageInput`; in folders, files that
    are images neither by name nor by content are only counted in `not_images`. `on_skip` is called
    for everything that is passed over; links to `outer_folders` (those around a folder that is an
    input) are not entered.
    """

    inputs: Sequence[str]
    stdin: io.BufferedReader | None = None
    not_images: int = 0
    duplicate_links: int = 0
    on_skip: Callable[[SkipReason, str], None] = lambda why, path: None
    outer_folders: frozenset[Identity] = frozenset()
    _folders: set[Identity] = field(default_factory=set)
    _linked: set[Identity] = field(default_factory=set)

    def __post_init__(self) -> None:
        if isinstance(self.inputs, str):
            raise TypeError(f"Finder takes a list of inputs, not the text {self.inputs!r}")

    @property
    def is_stream(self) -> bool:
        """Whether the inputs come from a program: it may take its time, and says them once."""
        return any(text == STDIN or _is_piped_list(text) for text in self.inputs)

    def count(self) -> int | None:
        """How many there are, found out by looking for them once more; unknown for stdin."""
        if self.is_stream:
            return None
        return sum(1 for _ in Finder(self.inputs))

    def __iter__(self) -> Iterator[ImageInput]:
        for text in self.inputs:
            if text == STDIN:
                yield from self._read_stdin()
            elif _is_list(text):
                yield from self._list(text[1:])
            elif _is_address(text):
                yield _at_address(text)
            elif glob.has_magic(text) and not os.path.lexists(text):
                yield from self._glob(text)
            else:
                yield from self._path(text)

    def _path(self, path: str) -> Iterator[ImageInput]:
        """What one path names: a file, or all images of a folder."""
        if _is_address(path):
            yield _at_address(path)
            return
        if not os.path.isdir(path):
            yield ImageInput(path, path)
            return
        self._folders.clear()
        self._linked.clear()
        images = self._walk(path)
        first = next(images, None)
        if first is None:
            yield ImageInput(path, None, _folder_error("This folder has no images in it."))
        else:
            yield from chain((first,), images)

    def _walk(self, top: str) -> Iterator[ImageInput]:
        """The images below `top`; every real folder and every linked file once, so that loops of
        links end.
        """
        root = os.path.realpath(top)
        levels = [_Level(top, self._entries(top))]
        while levels:
            level = levels[-1]
            entry = next(level.entries, None)
            if entry is None:
                levels.pop()
                if levels:
                    levels[-1].found |= level.found
                    if not level.found and is_image_name(level.path):
                        yield ImageInput(
                            level.path, None, _folder_error("This is a folder, not an image file.")
                        )
            elif isinstance(entry, ImageInput):
                level.found = True
                yield entry
            elif entry.is_folder:
                levels.append(_Level(entry.path, self._entries(entry.path)))
            elif self._is_image(entry.path) and not (
                entry.is_link and self._is_seen_link(entry.path, root)
            ):
                level.found = True
                yield ImageInput(entry.path, entry.path)

    def _entries(self, folder: str) -> Iterator[_Entry | ImageInput]:
        """What lies in a folder, in the order of the names; nothing the second time that a link
        leads here.
        """
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in self._folders or identity in self.outer_folders:
                self.on_skip("already_visited", folder)
                return
            self._folders.add(identity)
            with os.scandir(folder) as scan:
                entries = sorted(
                    (e.name, e.is_symlink(), _is_dir(e)) for e in scan if self._is_wanted(e)
                )
        except OSError as error:
            message = f"The folder cannot be read: {error.strerror}."
            yield ImageInput(
                folder, None, ImageError("unreadable", message, "Check its permissions.")
            )
            return
        for name, is_link, is_folder in entries:
            yield _Entry(os.path.join(folder, name), is_link, is_folder)

    def _is_wanted(self, entry: os.DirEntry[str]) -> bool:
        if is_ignored(entry.name):
            self.on_skip("ignored", entry.path)
            return False
        return True

    def _is_image(self, path: str) -> bool:
        if is_image_name(path) or is_image_content(path):
            return True
        self.not_images += 1
        self.on_skip("not_image", path)
        return False

    def _is_seen_link(self, path: str, root: str) -> bool:
        """Whether the link `path` leads to a file that this folder gives under another name."""
        target = os.path.realpath(path)
        try:
            status = os.stat(target)
        except OSError:  # it leads nowhere: opening it will say so
            return False
        identity = (status.st_dev, status.st_ino)
        inside = target.startswith(os.path.join(root, ""))
        below = os.path.relpath(target, root).split(os.sep) if inside else []
        listed = (
            inside
            and not any(map(is_ignored, below))
            and (is_image_name(target) or is_image_content(target))
        )
        if listed or identity in self._linked:
            self.duplicate_links += 1
            return True
        self._linked.add(identity)
        return False

    def _glob(self, pattern: str) -> Iterator[ImageInput]:
        paths = sorted(set(_matches(pattern)))
        if not paths:
            error = ImageError(
                "missing", "No file matches this pattern.", "Check it, and quote it for the shell."
            )
            yield ImageInput(pattern, None, error)
        for path in paths:
            yield from self._path(path)

    def _list(self, path: str) -> Iterator[ImageInput]:
        try:
            with Path(path).open("rb") as file:
                content = sniff(file.peek(HEAD_BYTES)) if os.path.isfile(path) else None
                if content is not None and content.format is not None:
                    raise UsageError(
                        f"The list {path!r} is {content.description}.", "Leave out the @."
                    )
                yield from self._lines(file)
        except OSError as error:
            raise UsageError(
                f"The list {path!r} cannot be read: {error.strerror}.",
                "Give a file with one path a line after the @.",
            ) from error

    def _read_stdin(self) -> Iterator[ImageInput]:
        """Paths, or the bytes of one image: the first bytes tell. Paths may begin like an image
        (`BMW.jpg`), but then there is such a file.
        """
        stdin = self.stdin or cast(io.BufferedReader, sys.stdin.buffer)
        head = stdin.peek(HEAD_BYTES)
        first = re.split(rb"[\0\r\n]", head, maxsplit=1)[0]
        if sniff(head) is None or os.path.lexists(os.fsdecode(first)):
            yield from self._lines(stdin)
        else:
            yield ImageInput(STDIN, stdin.read())

    def _lines(self, file: io.BufferedReader) -> Iterator[ImageInput]:
        for number, line in enumerate(_split_lines(file)):
            if number == 0:
                line = line.removeprefix(codecs.BOM_UTF8)  # Windows' editors put it there
            if line:
                yield from self._path(os.fsdecode(line))


def _is_address(text: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None and not os.path.lexists(text)


def _at_address(text: str) -> ImageInput:
    scheme = text.partition("://")[0]
    if scheme.lower() in ("http", "https"):
        return ImageInput(text, Url(text))
    message = f"Addresses with {scheme}:// are not fetched, only http:// and https://."
    return ImageInput(text, None, ImageError("unreadable", message, "Download it first."))


def _is_list(text: str) -> bool:
    return text.startswith("@") and not os.path.lexists(text)


def _is_piped_list(text: str) -> bool:
    """Whether this is a list that can be read only once: `@<(find ...)` of a shell."""
    return _is_list(text) and not os.path.isfile(text[1:])


def _matches(pattern: str) -> Iterator[str]:
    """The paths that a pattern matches; unlike the standard library's, `**` enters no linked
    folder, so that loops of links end.
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
            start = folder if top else folder[2:]  # "." and "./a" as a person would write them
            yield from _matches(os.path.join(glob.escape(start), after))


def _split_lines(file: io.BufferedReader) -> Iterator[bytes]:
    """Lines without their ends; if there is a NUL byte in what can be read at once, NUL ends the
    paths, as from `find -print0`.
    """
    if file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise UsageError("The list is in UTF-16.", "Save it as UTF-8.")
    if b"\0" not in file.peek(1):
        for line in file:
            yield line.rstrip(b"\r\n")
        return
    rest = b""
    while chunk := file.read1(1 << 16):
        *paths, rest = (rest + chunk).split(b"\0")
        yield from paths
    yield from rest.split(b"\0")


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def is_ignored(name: str) -> bool:
    """Whether this is what systems leave in folders, or hidden."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def is_image_name(name: str) -> bool:
    """Whether a file of this name is an image to a person."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_image_content(path: str) -> bool:
    """Whether a regular file without an image's name is an image by its first bytes."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            content = sniff(file.read(HEAD_BYTES))
    except OSError:
        return False
    return content is not None and content.is_image
