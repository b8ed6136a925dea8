"""Copy or move images into a folder per class; no file is ever overwritten."""

import errno
import filecmp
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from effnet_cli.images.finder import STDIN
from effnet_cli.options import OrganizeOptions
from effnet_cli.predict.records import ImageResult, PlacedFile
from effnet_cli.system.errors import UsageError
from effnet_cli.system.files import PART_SUFFIX, cannot_write
from effnet_cli.system.text import pluralize

SUFFIX_CHARS = 8  # hexadecimal
MAX_NAME_BYTES = 180  # of a folder name: file systems allow 255, and a number may be appended
NO_LINKS = (
    *(errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK, errno.ENOSYS),
    errno.EINVAL,  # Windows, on file systems without links
)


def check_folder(folder: Path, option: str, inputs: Sequence[str]) -> None:
    """Raise `UsageError` if the folder is a file, or is inside an input folder, where its images
    would be found again.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"{option} {str(folder)!r} is not a folder.", "Use an existing folder or a new path."
        )
    for text in inputs:
        if Path(text).is_dir() and folder.resolve().is_relative_to(Path(text).resolve()):
            raise UsageError(
                f"{option} {str(folder)!r} is inside the input {text!r}.",
                "Use a folder outside it.",
            )


class Organizer:
    """Copies or moves images by best class and counts them; `warn` is called for each failure."""

    def __init__(
        self, options: OrganizeOptions, warn: Callable[[str], None] = lambda text: None
    ) -> None:
        self._options, self._warn = options, warn
        self.placed = self.identical = self.failed = 0  # images

    @property
    def moves(self) -> bool:
        """Whether images are moved, not copied."""
        return self._options.moves

    def place(self, result: ImageResult) -> PlacedFile | None:
        """Copy or move a result's image; return `None` if this or its prediction failed.

        Raises `EffnetError` if the disk is full.
        """
        if result.error is not None:
            return None
        source, folder = Path(result.path), self._options.folder
        if self._options.group_by == "class":
            folder = folder / folder_name(result.best_label)
        try:
            if not source.is_file():
                raise FileNotFoundError(errno.ENOENT, _describe_missing(result.path))
            write = partial(shutil.copy2, source)
            target, is_new = write_new_file(folder, source.name, write)
            if self.moves and (source.is_symlink() or not target.samefile(source)):
                self._delete(source, copy=target if is_new else None)
                is_new = True
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise cannot_write(folder, error) from error
            self.failed += 1
            verb, reason = "move" if self.moves else "copy", error.strerror or error
            if isinstance(error, FileExistsError):
                reason = f"{os.fspath(error.filename)!r} is not a folder; rename it"
            self._warn(f"Cannot {verb} {result.path}: {reason}.")
            return None
        self.placed += is_new
        self.identical += not is_new
        return PlacedFile(str(target), self.moves)

    @staticmethod
    def _delete(source: Path, copy: Path | None) -> None:
        """Delete an image that has been moved; if that fails, delete its copy instead."""
        try:
            source.unlink()
        except OSError:
            if copy is not None:
                copy.unlink()
            raise

    def summarize(self) -> str:
        """Return one line about what was done."""
        done = "Moved" if self.moves else "Copied"
        skipped = f"; {self.identical:,} already there" if self.identical else ""
        failed = f"; {self.failed:,} could not be {done.lower()}" if self.failed else ""
        count = pluralize(self.placed, "image")
        return f"{done} {count} to {str(self._options.folder)!r}{skipped}{failed}."


def _describe_missing(path: str) -> str:
    if path == STDIN or "://" in path:
        return "not a local file"
    return "it is no longer there; another input may have named the same file"


def folder_name(label: str) -> str:
    """Return a folder name for a class: no separators, no leading dot, not too long.

    A name that had to be changed gets a digest of the class, so that two classes never share one.
    """
    name = "".join("_" if c in '/\\\0<>:"|?*' or ord(c) < 32 else c for c in label).strip()
    name = f"_{name[1:]}" if name.startswith(".") else name
    name = os.fsdecode(os.fsencode(name)[:MAX_NAME_BYTES]).rstrip(". ")
    if name and name == label:
        return name
    return f"{name or '_'}-{hashlib.sha256(os.fsencode(label)).hexdigest()[:SUFFIX_CHARS]}"


def write_new_file(folder: Path, name: str, write: Callable[[Path], object]) -> tuple[Path, bool]:
    """Create a file in `folder` under an unused name (`a.jpg`, `a (2).jpg`, ...).

    `write` writes the content to the path it gets. The file appears only once it is complete. An
    existing identical file is reused. Returns the file and whether it is new; raises `OSError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{secrets.token_hex(8)}{PART_SUFFIX}"
    target, number = folder / name, 1
    try:
        write(part)
        while not _take_name(part, target):
            with suppress(OSError):
                if filecmp.cmp(part, target, shallow=False):
                    return target, False
            number += 1
            target = folder / f"{Path(name).stem} ({number}){Path(name).suffix}"
        return target, True
    finally:
        part.unlink(missing_ok=True)


def _take_name(part: Path, target: Path) -> bool:
    """Rename `part` to `target` if that name is unused; a plain rename would overwrite."""
    try:
        os.link(part, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        try:  # no hard links here, so reserve the name first
            target.open("xb").close()
        except FileExistsError:
            return False
        part.replace(target)
    return True
