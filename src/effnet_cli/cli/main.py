"""Run the command line: the one place where errors become text and the process ends."""

import errno
import os
import shlex
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

import typer

from effnet_cli.cli.app import build_app
from effnet_cli.output.text import printable
from effnet_cli.system.errors import EffnetError, OutputClosed, UsageError

DEBUG_VARIABLE = "EFFNET_DEBUG"
# A program that a signal stops has the exit status 128 plus the signal's number.
INTERRUPTED_STATUS, BROKEN_PIPE_STATUS, TERMINATED_STATUS = 130, 141, 143


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that `finally` blocks run."""


def main() -> NoReturn:
    """Run the command line and end the process."""
    # A shell can close them (`>&-`). Their numbers must not become those of other files.
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)
    if sys.stdout is None:  # writing fails, so that predictions that nobody gets are an error
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stdout, sys.stderr = _duplicate(sys.stdout), _duplicate(sys.stderr)
    signal.signal(signal.SIGTERM, _raise_terminated)
    if not os.environ.get(DEBUG_VARIABLE):
        # what decoders and runtimes say of their own accord is for programmers
        warnings.simplefilter("ignore")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    status = run()
    try:
        sys.stdout.flush()
    except OSError as error:
        if not status:
            _print_error(f"Cannot write to stdout: {error.strerror}.", "Redirect it.")
        status = status or 1
    with suppress(OSError):  # a closed stderr does not change the exit status
        sys.stderr.flush()
    # Threads may still be in a decoder or runtime, which a normal exit would tear down under them.
    os._exit(status)


def _duplicate(stream: TextIO) -> TextIO:
    """Copy a stream to its own descriptor, because native code is silenced on 1 and 2."""
    buffering = 1 if stream.line_buffering else -1
    return open(  # noqa: PTH123, SIM115 (open to the end)
        os.dup(stream.fileno()), "w", buffering, encoding=stream.encoding, errors=stream.errors
    )


def _raise_terminated(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def run() -> int:
    """Run the command and return the exit status."""
    words = sys.argv[1:] or ["--help"]
    try:
        return build_app(words)(words, prog_name="effnet", standalone_mode=False) or 0
    except EffnetError as error:
        _print_error(error.message, error.hint)
        return error.exit_status
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        message = " ".join(error.format_message().split())  # Typer breaks lines
        choices = getattr(getattr(error, "param", None), "metavar", None) or ""
        if "|" in choices:  # of a missing option
            message += f" Choose from: {choices.replace('|', ', ')}."
        _print_error(message, _usage_hint(context.command_path if context else "effnet"))
        return UsageError.exit_status
    except (OutputClosed, BrokenPipeError):
        return BROKEN_PIPE_STATUS
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED_STATUS
    except _Terminated:
        return TERMINATED_STATUS
    except Exception as error:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EBADF):  # help on a full disk or a closed stdout
            _print_error(f"Cannot write to stdout: {os.strerror(number)}.", "Redirect it.")
        elif isinstance(error, FileNotFoundError) and not _has_current_folder():
            _print_error("The current folder has been deleted.", "Change to another folder.")
        elif isinstance(error, OSError) and error.filename and number != errno.ENOENT:
            # beyond reach: no permission, a name too long, a device that fails
            path, denied = os.fsdecode(error.filename), number in (errno.EACCES, errno.EPERM)
            hint = "Check its permissions." if denied else "Check the path."
            _print_error(f"Cannot access {path!r}: {error.strerror}.", hint)
            return UsageError.exit_status
        elif isinstance(error, ImportError) and not str(error.name).startswith("effnet"):
            _print_error(f"A library cannot be loaded: {error}.", "See `effnet doctor`.")
        elif isinstance(error, MemoryError):
            _print_error("Not enough memory.", "Close other programs, or use smaller images.")
        else:  # a bug, whose report needs the traceback
            traceback.print_exc()
        return 1


def _has_current_folder() -> bool:
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False


def _usage_hint(command: str) -> str:
    if command == "effnet" and sys.argv[1:] and Path(sys.argv[1]).exists():
        return f"To classify it: effnet predict {shlex.quote(sys.argv[1])}"
    return f"See `{command} -h`."


def _print_error(message: str, hint: str) -> None:
    with suppress(OSError):
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        for line in f"Error: {message}\n{hint}".split("\n"):  # a refused dataset has many lines
            print(printable(line), file=sys.stderr)  # noqa: T201
