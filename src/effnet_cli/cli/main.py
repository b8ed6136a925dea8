"""The one edge where errors become text, and the end of the process."""

import errno
import io
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

# isort: off
# each of these adds its commands to the application, in the order of the help
from effnet_cli.cli import predict, finetune, evaluate, export, bench, variants, doctor  # noqa: F401

# isort: on
from effnet_cli.cli.app import app
from effnet_cli.system.errors import EffnetError, OutputClosed, UsageError

DEBUG_VARIABLE = "EFFNET_DEBUG"
SIGNAL_STATUS = 128  # plus the number of the signal that ended a program is its exit status
CLOSED_STATUS = 141  # as of SIGPIPE, which Windows does not have


class _Terminated(BaseException):
    """SIGTERM, so that what is half done is cleaned up on the way out."""


def main() -> NoReturn:
    """Run the command line and end the process; the one place where errors become text."""
    for name in ("stdin", "stdout", "stderr"):  # a shell can close them (`>&-`)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (open to the end)
    sys.stdout, sys.stderr = _apart(sys.stdout), _apart(sys.stderr)
    signal.signal(signal.SIGTERM, _raise_terminated)
    if not os.environ.get(DEBUG_VARIABLE):
        warnings.simplefilter("ignore")  # libraries' warnings are for programmers
    status = run()
    try:
        sys.stdout.flush()
    except OSError:
        status = status or 1
    with suppress(OSError):  # words that nobody can hear change no answer
        sys.stderr.flush()
    # Threads may be inside a decoder or a runtime; the ordinary exit would tear it down under them.
    os._exit(status)


def _apart(stream: TextIO) -> TextIO:
    """The same stream on a descriptor of its own: where native code is silenced, on 1 and 2, rows
    and words of ours must come through.
    """
    raw = open(os.dup(stream.fileno()), "wb")  # noqa: PTH123, SIM115 (open to the end)
    return io.TextIOWrapper(
        raw,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )


def _raise_terminated(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def run() -> int:
    """Run the command; its exit status."""
    try:
        return app(sys.argv[1:] or ["--help"], prog_name="effnet", standalone_mode=False) or 0
    except EffnetError as error:
        _tell(error.message, error.hint)
        return error.exit_status
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        # Typer puts choices on lines of their own, and words of a library before them
        message = " ".join(error.format_message().split()).replace("Value error, ", "")
        _tell(message, _way_out(context.command_path if context else "effnet"))
        return UsageError.exit_status
    except (OutputClosed, BrokenPipeError):
        return CLOSED_STATUS
    except (typer.Abort, KeyboardInterrupt):
        return SIGNAL_STATUS + signal.SIGINT
    except _Terminated:
        return SIGNAL_STATUS + signal.SIGTERM
    except OSError as error:
        if error.errno != errno.ENOSPC:
            traceback.print_exc()
        else:  # the help, on a full disk
            _tell("Standard output cannot be written: there is no room.", "Make room.")
        return 1
    except Exception:  # ours to mend: whoever meets it needs the traceback to tell us
        traceback.print_exc()
        return 1


def _way_out(command: str) -> str:
    """What to type instead."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    if command == "effnet" and Path(first).exists():
        return f"To ask what is on it, type: effnet predict {shlex.quote(first)}"
    return f"See `{command} -h`."


def _tell(message: str, hint: str) -> None:
    from effnet_cli.output.text import printable

    with suppress(OSError):
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        lines = [f"Error: {message}", hint]
        for line in "\n".join(lines).split("\n"):  # a refused dataset has a line for each fault
            print(printable(line), file=sys.stderr)  # noqa: T201
