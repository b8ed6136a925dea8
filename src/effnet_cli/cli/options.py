"""Options that several commands have, and what makes values of their texts."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from effnet_cli.models.variants import DEFAULT_VARIANT
from effnet_cli.options import EngineChoice, EnginePrecision, Fit
from effnet_cli.system.errors import UsageError

ListFormat = Literal["table", "json"]


def count(text: str | int) -> int:
    """A whole number from 1 (a default comes as the number that it is)."""
    return _whole_from(1, str(text))


def _whole_from(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise typer.BadParameter(f"{text!r} is not a whole number from {least}.")
    return int(text)


def auto_or_count(text: str) -> int | None:
    """`auto` (None) or a whole number from 1."""
    return None if text == "auto" else count(text)


def share(text: str | float) -> float:
    """A number between 0 and 1."""
    with suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise typer.BadParameter(f"{text!r} is not a number between 0 and 1.")


def auto_or_share(text: str | None) -> float | Literal["auto"] | None:
    """A number between 0 and 1, or `auto`."""
    if text is None:
        return None
    return "auto" if text == "auto" else share(text)


def positive(text: str | float) -> float:
    """A number above 0."""
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise typer.BadParameter(f"{text!r} is not a number above 0.")


def auto_or_positive(text: str | float) -> float | None:
    """`auto` (None) or a number above 0."""
    return None if text == "auto" else positive(text)


def from_zero(text: str | float) -> float:
    """A number from 0."""
    with suppress(ValueError):
        if 0 <= float(text) < float("inf"):
            return float(text)
    raise typer.BadParameter(f"{text!r} is not a number from 0.")


def whole(text: str | int) -> int:
    """A whole number from 0."""
    return _whole_from(0, str(text))


def page(text: str) -> Path:
    """A file that a page may be written to: told at once, and not when the work is done."""
    from effnet_cli.output.writers import STDOUT, check_output  # NumPy, which `--help` does without

    if text == STDOUT:
        raise UsageError(f"--html {text!r} is no file.", "Name one: stdout has the answers.")
    path = Path(text)
    check_output(path, "--html")
    return path


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
    EnginePrecision,
    typer.Option("--precision", "-p", help="Below fp32, answers come faster and differ a little."),
]
FitOption = Annotated[
    Fit,
    typer.Option(
        "--fit", help="How an image fills the square; the weights were evaluated with crop."
    ),
]
ExactDecodeOption = Annotated[
    bool,
    typer.Option(
        "--exact-decode", help="Decode large JPEGs in full, not at the scale that is needed."
    ),
]
MaxPixelsOption = Annotated[
    int, typer.Option("--max-pixels", metavar="N", parser=count, help="Refuse larger images.")
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "-b",
        metavar="auto|N",
        parser=auto_or_count,
        show_default="auto",
        help="Images in one call of the network.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-j",
        metavar="auto|N",
        parser=auto_or_count,
        show_default="auto",
        help="Threads that decode images.",
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No notes, progress or summary on stderr.")
]
ListFormatOption = Annotated[ListFormat, typer.Option("--format", "-f", help="How it is written.")]
HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", parser=page, help="Also write one page to look at."),
]
BenchFormatOption = Annotated[
    Literal["table", "json", "csv"],
    typer.Option("--format", "-f", help="How the figures are written."),
]
NamesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="VARIANTS", help="Names from `effnet variants`, or all.", show_default=False
    ),
]
