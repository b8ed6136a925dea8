"""The command line: options and their texts; `main` is the one edge where errors become text."""

import errno
import os
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from effnet_cli import __version__
from effnet_cli.errors import EffnetError, OutputClosed, UsageError
from effnet_cli.options import (
    EngineChoice,
    EngineOptions,
    Fit,
    Format,
    ModelOptions,
    PictureOptions,
    Precision,
    PredictOptions,
)
from effnet_cli.variants import DEFAULT_VARIANT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from _typeshed import DataclassInstance

    from effnet_cli.predict import Prediction
    from effnet_cli.rows import Speaker
    from effnet_cli.variants import Variant

DEBUG_VARIABLE = "EFFNET_DEBUG"
SIGNAL_STATUS = 128  # plus the number of the signal that ended a program is its exit status

ListFormat = Literal["table", "json"]

# Plain help: rich's panels would double the time to the first line.
app = typer.Typer(
    name="effnet",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
weights_app = typer.Typer(
    rich_markup_mode=None,
    help="List, fetch, check and locate pretrained weights.",
)
app.add_typer(weights_app, name="weights")


# --- options ----------------------------------------------------------------------------------


def _count(text: str | int) -> int:
    """A whole number from 1 (a default comes as the number that it is)."""
    text = str(text)
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is not a whole number from 1.")
    return int(text)


def _auto_or_count(text: str) -> int | None:
    """`auto` (None) or a whole number from 1."""
    return None if text == "auto" else _count(text)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"effnet {__version__}")  # noqa: T201
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option(
        "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
]
InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUTS",
        help="Pictures, folders, glob patterns, @LIST (a file of paths), "
        "or - (stdin: paths, or one picture).",
        show_default=False,
    ),
]
VariantOption = Annotated[
    str | None,
    typer.Option(
        "--variant", "-V", help="The network, see `effnet variants`.", show_default=DEFAULT_VARIANT
    ),
]
ModelOption = Annotated[
    Path | None, typer.Option("--model", "-m", help="A model file, or the folder that holds it.")
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights", help="A file with weights for --variant, in torchvision's or timm's naming."
    ),
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Open no connection.")]
DeviceOption = Annotated[
    str, typer.Option("--device", "-d", metavar="auto|cpu|cuda|cuda:N|mps", help="Where it runs.")
]
EngineOption = Annotated[
    EngineChoice,
    typer.Option("--engine", "-e", help="What runs it; auto answers as torch does in fp32."),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option("--precision", "-p", help="Below fp32, answers come faster and differ a little."),
]
FitOption = Annotated[
    Fit,
    typer.Option(
        "--fit", help="How a picture fills the square; the weights were evaluated with crop."
    ),
]
ExactDecodeOption = Annotated[
    bool,
    typer.Option(
        "--exact-decode", help="Decode large JPEGs in full, not at the scale that is needed."
    ),
]
MaxPixelsOption = Annotated[
    int, typer.Option("--max-pixels", metavar="N", parser=_count, help="Refuse larger pictures.")
]
TopKOption = Annotated[
    int,
    typer.Option("--top-k", "-k", metavar="N", parser=_count, help="Answers for each picture."),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "-b",
        metavar="auto|N",
        parser=_auto_or_count,
        show_default="auto",
        help="Pictures in one call of the network.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-j",
        metavar="auto|N",
        parser=_auto_or_count,
        show_default="auto",
        help="Threads that decode pictures.",
    ),
]
FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        "-f",
        show_default="from the name of --output, else table",
        help="How the answers are written.",
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write the answers to this file, whole or not at all."),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No notes, progress or summary on stderr.")
]
ListFormatOption = Annotated[
    ListFormat, typer.Option("--format", "-f", help="How the list is written.")
]
NamesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="VARIANTS", help="Names from `effnet variants`, or all.", show_default=False
    ),
]

VerifiedNamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="VARIANTS", help="Names, or all that are here.", show_default="all"),
]


# --- commands ---------------------------------------------------------------------------------


@app.callback()
def effnet(version: VersionOption = False) -> None:
    """Image classification with EfficientNet: what is on these pictures?

    Try `effnet predict cat.jpg`: the default variant answers without any download.
    """


@app.command()
def predict(
    inputs: InputsArgument,
    variant: VariantOption = ModelOptions.variant,
    model: ModelOption = ModelOptions.model,
    weights: WeightsOption = ModelOptions.weights,
    offline: OfflineOption = ModelOptions.offline,
    device: DeviceOption = EngineOptions.device,
    engine: EngineOption = EngineOptions.engine,
    precision: PrecisionOption = EngineOptions.precision,
    fit: FitOption = PictureOptions.fit,
    exact_decode: ExactDecodeOption = PictureOptions.exact_decode,
    max_pixels: MaxPixelsOption = PictureOptions.max_pixels,
    top_k: TopKOption = PredictOptions.top_k,
    batch_size: BatchSizeOption = PredictOptions.batch_size,
    workers: WorkersOption = PredictOptions.workers,
    format_: FormatOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Say what is on pictures.

    One row for each picture, in the order given; a broken file has a row that says so, and stops
    no other.
    """
    from effnet_cli import rows
    from effnet_cli.images import Finder
    from effnet_cli.predict import Classifier

    speaker, tally, finder = _speaker(quiet), rows.Tally(), Finder(inputs)
    classifier = Classifier(
        ModelOptions(variant, model, weights, offline),
        EngineOptions(device, engine, precision),
        PictureOptions(fit, exact_decode, max_pixels),
        PredictOptions(top_k, batch_size, workers),
        speaker,
    )
    # from here on the engine loads, while what draws tables is imported
    answers = tally.count(classifier.predict(finder, are_many=finder.is_slow or None))
    encode = _encoder(rows.chosen_format(format_, output))
    rows.write(encode(speaker.track(answers, finder.total)), output)
    speaker.note(tally.summary(finder))
    raise typer.Exit(1 if tally.failed else 0)


@app.command()
def variants(format_: ListFormatOption = "table") -> None:
    """List the networks: resolution, size, published accuracy, whether the weights are here."""
    from effnet_cli import listings

    _print_listing(listings.variants(), format_)


@weights_app.command("list")
def list_weights(format_: ListFormatOption = "table") -> None:
    """List where the weights of each network are, or would be."""
    from effnet_cli import listings

    _print_listing(listings.weights(), format_)


@weights_app.command("pull")
def pull_weights(
    names: NamesArgument, offline: OfflineOption = False, quiet: QuietOption = False
) -> None:
    """Fetch weights that are not here, into the folder in which torch keeps them."""
    from effnet_cli import weights

    speaker = _speaker(quiet)
    for row in _named(names):
        path = weights.obtain(row, offline=offline, listener=speaker)
        speaker.note(f"{row.name}: {path}")


@weights_app.command("verify")
def verify_weights(names: VerifiedNamesArgument = None) -> None:
    """Compute the digests of weights anew and compare them with the published ones."""
    from effnet_cli import listings, rows

    names = names or ["all"]
    is_all = names == ["all"]  # then what is not here is no fault
    verdicts = [v for v in listings.verified(_named(names)) if v.is_here or not is_all]
    for verdict in verdicts:
        rows.write_stdout(f"{verdict.variant}: {verdict.verdict}\n")
    raise typer.Exit(0 if all(verdict.is_intact for verdict in verdicts) else 1)


@weights_app.command("path")
def path_of_weights(names: NamesArgument) -> None:
    """Print the paths of weights that are here; fails for those that are not."""
    from effnet_cli import rows, weights

    for row in _named(names):
        rows.write_stdout(f"{weights.obtain(row, offline=True)}\n")


# --- what the commands share ------------------------------------------------------------------


def _speaker(quiet: bool) -> "Speaker":
    """Bars for a person at a terminal, plain lines for everyone else."""
    if sys.stderr.isatty():
        from effnet_cli.console import Screen

        return Screen(quiet)
    from effnet_cli.rows import Speaker

    return Speaker(quiet)


def _encoder(format_: Format) -> "Callable[[Iterable[Prediction]], Iterator[str]]":
    """What makes text of predictions; only the table needs rich."""
    if format_ == "table":
        from effnet_cli.console import table_text

        return table_text
    from effnet_cli.rows import ENCODERS

    return ENCODERS[format_]


def _print_listing(records: "Iterable[DataclassInstance]", format_: ListFormat) -> None:
    from effnet_cli import rows

    listed = [asdict(record) for record in records]
    if format_ == "json":
        rows.write_stdout(rows.json_text(listed, indent=2) + "\n")
        return
    from effnet_cli.console import listing_text

    columns = [name.replace("_", " ") for name in listed[0]]
    rows.write(listing_text(columns, [list(record.values()) for record in listed]), None)


def _named(names: list[str]) -> "list[Variant]":
    """The variants that were named; `all` is every one."""
    from effnet_cli.variants import VARIANTS, find

    return list(VARIANTS.values()) if names == ["all"] else [find(name) for name in names]


# --- the edge ---------------------------------------------------------------------------------


class _Terminated(BaseException):
    """SIGTERM, so that what is half done is cleaned up on the way out."""


def main() -> NoReturn:
    """Run the command line and end the process; the one place where errors become text."""
    for name in ("stdin", "stdout", "stderr"):  # a shell can close them (`>&-`)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (open to the end)
    signal.signal(signal.SIGTERM, _raise_terminated)
    if not os.environ.get(DEBUG_VARIABLE):
        warnings.simplefilter("ignore")  # libraries' warnings are for programmers
    status = _run()
    try:
        sys.stdout.flush()
    except OSError:
        status = status or 1
    with suppress(OSError):  # words that nobody can hear change no answer
        sys.stderr.flush()
    # Threads may be inside a decoder or a runtime; the ordinary exit would tear it down under them.
    os._exit(status)


def _raise_terminated(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _run() -> int:
    """Run the command; its exit status."""
    try:
        return app(sys.argv[1:] or ["--help"], prog_name="effnet", standalone_mode=False) or 0
    except EffnetError as error:
        _show(error.message, error.hint)
        return error.exit_status
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        _show(error.format_message(), f"See `{context.command_path if context else 'effnet'} -h`.")
        return UsageError.exit_status
    except (OutputClosed, BrokenPipeError):
        return SIGNAL_STATUS + signal.SIGPIPE
    except (typer.Abort, KeyboardInterrupt):
        return SIGNAL_STATUS + signal.SIGINT
    except _Terminated:
        return SIGNAL_STATUS + signal.SIGTERM
    except OSError as error:
        if error.errno != errno.ENOSPC:
            traceback.print_exc()
        else:  # the help, on a full disk
            _show("Standard output cannot be written: there is no room.", "Make room.")
        return 1
    except Exception:  # ours to mend: whoever meets it needs the traceback to tell us
        traceback.print_exc()
        return 1


def _show(message: str, hint: str) -> None:
    from effnet_cli.rows import printable

    with suppress(OSError):
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        print(f"Error: {printable(message)}\n{printable(hint)}", file=sys.stderr)  # noqa: T201
