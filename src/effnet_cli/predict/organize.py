"""Images into a folder for each class: copied or moved, and nothing that is there replaced."""

import errno
import filecmp
import itertools
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from effnet_cli.options import OrganizeOptions
from effnet_cli.predict.records import ImageResult
from effnet_cli.system.errors import UsageError
from effnet_cli.system.files import PART_SUFFIX, cannot_write

MAX_NAME_BYTES = 200  # of a folder: file systems take 255, and a number may come behind
# EINVAL: Windows, on file systems without links.
NO_LINKS = (
    errno.EPERM,
    errno.ENOTSUP,
    errno.EXDEV,
    errno.EMLINK,
    errno.ENOSYS,
    errno.EINVAL,
)


class Filing:
    """Files images by their best class; `warn` hears of each that fails.

    Raises:
        UsageError: the folder is a file, or lies in one of the inputs, whose images would be
            found again.
    """

    def __init__(
        self,
        options: OrganizeOptions,
        inputs: Sequence[str],
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._options = options
        self._warn = warn
        self.filed = self.there = self.failed = 0  # images
        if options.folder.exists() and not options.folder.is_dir():
            raise UsageError(
                f"--copy-to {str(options.folder)!r} is no folder.", "Name a folder, or a new one."
            )
        for text in inputs:
            if Path(text).is_dir() and options.folder.resolve().is_relative_to(
                Path(text).resolve()
            ):
                raise UsageError(
                    f"The folder {str(options.folder)!r} lies in the input {text!r}.",
                    "Name one outside of it.",
                )

    def watch(self, predictions: Iterable[ImageResult]) -> Iterator[ImageResult]:
        """The same rows, which say where their images are filed; images that failed or have no
        answer stay where they are.

        Raises:
            EffnetError: there is no room.
        """
        for prediction in predictions:
            yield self._filed(prediction) if prediction.error is None else prediction

    def _filed(self, prediction: ImageResult) -> ImageResult:
        source = Path(prediction.path)
        folder = self._options.folder
        if self._options.group_by == "class":
            folder = folder / folder_name(prediction.predictions[0].label)
        try:
            if not source.is_file():  # from an address, or stdin
                raise FileNotFoundError(errno.ENOENT, "it is no file here")
            target, is_new = (moved if self._options.moves else copied)(source, folder)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise cannot_write(folder, error) from error
            self.failed += 1
            self._warn(f"{prediction.path} stays where it is: {error.strerror}.")
            return prediction
        self.filed += is_new
        self.there += not is_new
        return replace(prediction, filed=str(target), is_moved=self._options.moves)

    @property
    def summary(self) -> str:
        """What was done, in words."""
        done = "moved" if self._options.moves else "copied"
        what = "1 image is" if self.filed == 1 else f"{self.filed:,} images are"
        there = f", {self.there:,} had the same file there already" if self.there else ""
        failed = f", {self.failed:,} failed and stayed where they were" if self.failed else ""
        return f"{what} {done} into {str(self._options.folder)!r}{there}{failed}."


def folder_name(label: str) -> str:
    """A folder's name for a class: no separators, no leading dot, not too long."""
    name = "".join("_" if c in '/\\\0<>:"|?*' or ord(c) < 32 else c for c in label).strip()
    name = f"_{name[1:]}" if name.startswith(".") else name
    return os.fsdecode(os.fsencode(name)[:MAX_NAME_BYTES]).rstrip(". ") or "_"


def copied(source: Path, folder: Path) -> tuple[Path, bool]:
    """A copy of a file in `folder`, or the file there that has the same bytes, and whether it is
    new.

    Raises:
        OSError: it cannot be read or written.
    """
    return new_file(folder, source.name, lambda part: shutil.copy2(source, part))


def moved(source: Path, folder: Path) -> tuple[Path, bool]:
    """The file under its name in `folder`, and no more under its own; as `copied`.

    Raises:
        OSError: it cannot be read, written or deleted.
    """
    target, is_new = copied(source, folder)
    if not target.samefile(source) or source.is_symlink():
        source.unlink()
        is_new = True
    return target, is_new


def new_file(folder: Path, name: str, write: Callable[[Path], object]) -> tuple[Path, bool]:
    """A file in `folder` that appears whole under a name that no other file had, and whether it is
    new; `write` fills it.

    Where another file has the name, a number comes behind it; where that file has the same bytes,
    it is the one.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{secrets.token_hex(8)}{PART_SUFFIX}"
    try:
        write(part)
        for candidate in _names(name):
            target = folder / candidate
            if _is_placed(part, target):
                return target, True
            with suppress(OSError):
                if filecmp.cmp(part, target, shallow=False):
                    return target, False
    finally:
        part.unlink(missing_ok=True)
    raise AssertionError("names do not end")


def _names(name: str) -> Iterator[str]:
    """`a.jpg`, `a (2).jpg`, `a (3).jpg`, ..."""
    yield name
    path = Path(name)
    for number in itertools.count(2):
        yield f"{path.stem} ({number}){path.suffix}"


def _is_placed(part: Path, target: Path) -> bool:
    """Give a file its name, unless another one has it; a rename would replace that."""
    try:
        os.link(part, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        try:  # a file system without links: take the name first
            target.open("xb").close()
        except FileExistsError:
            return False
        part.replace(target)
    return True
