"""Write text to stdout, or to a file that appears whole or not at all."""

import errno
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from effnet_cli.images.finder import is_image_content
from effnet_cli.models import export_file
from effnet_cli.options import Format
from effnet_cli.system.errors import EffnetError, OutputClosed, UsageError
from effnet_cli.system.files import atomic_write

STDOUT = "-"
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
    check_output(output, "--output")
    with atomic_write(output.resolve()) as part, part.open("wb") as file:
        for piece in pieces:
            file.write(_encode(piece))


def check_output(output: Path, option: str) -> None:
    """Raise UsageError if `output` is not a regular file, or is an image or part of a model."""
    if output.is_dir():
        problem, hint = "is a folder", "Choose a file inside it."
    elif output.exists() and not output.is_file():
        problem, hint = "is not a regular file", f"Omit {option}, or choose a regular file."
    elif output.is_file() and is_image_content(str(output)):
        problem, hint = "is an image and would be overwritten", "Choose another file."
    elif export_file.is_model_file(output):
        problem, hint = "belongs to a model and would be overwritten", "Choose another file."
    else:
        return
    raise UsageError(f"{option} {str(output)!r} {problem}.", hint)


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
