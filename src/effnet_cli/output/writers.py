"""Write text to stdout, or to a file that appears whole or not at all."""

import errno
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from effnet_cli.images.finder import is_image_content
from effnet_cli.models import export_file
from effnet_cli.options import Format
from effnet_cli.system.errors import EffnetError, OutputClosed, UsageError
from effnet_cli.system.files import atomic_write

STDOUT = "-"
MAX_LINKS = 40  # one after the other, as many as Linux follows
SUFFIX_FORMATS: Mapping[str, Format] = {
    **{".json": "json", ".jsonl": "jsonl", ".csv": "csv"},
    **dict.fromkeys(("", ".txt", ".log"), "table"),
}


def choose_format(given: Format | None, output: Path | None) -> Format:
    """Return the given format, else the one of the output's suffix, else `table`.

    Raises:
        UsageError: the suffix is unknown.
    """
    if given is not None or output is None:
        return given or "table"
    format_ = SUFFIX_FORMATS.get(output.suffix.lower())
    if format_ is None:
        raise UsageError(
            f"Unsupported output format {output.suffix!r}.",
            f"Use {', '.join(filter(None, SUFFIX_FORMATS))}, or choose one with --format.",
        )
    return format_


def write(pieces: Iterable[str], output: Path | None) -> None:
    """Write text, piece by piece, to stdout or to a file.

    Raises:
        EffnetError: the text cannot be written.
    """
    if output is None:
        for piece in pieces:
            write_stdout(piece)
        return
    _check_kind(output, "--output")
    with atomic_write(output.resolve()) as part, part.open("wb") as file:
        for piece in pieces:
            file.write(_encode(piece))


def check_output(output: Path, option: str) -> None:
    """Raise UsageError if `output` is not a regular file, or is an image or part of a model."""
    _check_kind(output, option)
    if output.is_file() and is_image_content(str(output)):
        problem = "is an image"
    elif export_file.is_model_file(output):
        problem = "belongs to a model"
    else:
        return
    message = f"{option} {str(output)!r} {problem} and would be overwritten."
    raise UsageError(message, "Choose another file.")


def _check_kind(output: Path, option: str) -> None:
    if output.is_dir():
        message, hint = "is a folder", "Choose a file inside it."
    elif _is_descriptor(output) or (output.exists() and not output.is_file()):
        message, hint = "is not a regular file", f"Omit {option}, or choose a regular file."
    else:
        return
    raise UsageError(f"{option} {str(output)!r} {message}.", hint)


def _is_descriptor(path: Path) -> bool:
    """Return whether this is a name for an open file, such as /dev/stdout: to replace the file that
    the shell redirects it to would lose what that file has.
    """
    for _ in range(MAX_LINKS):
        folder = path.parent.resolve()
        if re.fullmatch("/dev/fd|/proc/.*/fd", folder.as_posix()):
            return True
        if not path.is_symlink():
            break
        path = folder / path.readlink()
    return False


def check_not_read(output: Path, read: Iterable[Path]) -> None:
    """Raise UsageError if `output` is one of the input files in `read`."""
    for path in read:
        if path.is_file() and output.exists() and path.samefile(output):
            raise UsageError(
                f"{str(output)!r} is an input and would be overwritten.", "Choose another file."
            )


def write_stdout(text: str) -> None:
    """Write and flush, so that the next program in a pipe gets each row as soon as it is known."""
    try:
        sys.stdout.buffer.write(_encode(text))
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise OutputClosed from error
    except OSError as error:
        is_full = error.errno == errno.ENOSPC
        hint = "Free some space, or redirect it." if is_full else "Redirect it."
        raise EffnetError(f"Cannot write to stdout: {error.strerror}.", hint) from error


def _encode(text: str) -> bytes:
    """Encode as UTF-8 whatever the locale; invalid bytes in names come out unchanged."""
    return text.encode("utf-8", "surrogateescape")
