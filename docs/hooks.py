"""An mkdocs hook: markers in the pages become text that the program itself provides.

`<!-- options: predict -->` becomes the table of a command's options, for example; see `MARKERS`.
"""

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typer
from mkdocs.exceptions import PluginError

from effnet_cli import options
from effnet_cli.cli import main as exit_statuses
from effnet_cli.cli.app import build_app
from effnet_cli.engines.registry import ENGINES
from effnet_cli.evaluate.metrics import METRICS
from effnet_cli.export.targets import TARGETS
from effnet_cli.models.export_file import EXPORT_KINDS
from effnet_cli.models.listing import select_variants
from effnet_cli.models.timm_weights import EXCLUDED
from effnet_cli.models.variants import DEFAULT_VARIANT, VARIANTS, Variant
from effnet_cli.options import ShowOptions
from effnet_cli.system import errors, fields

ROOT = Path(__file__).parents[1]
MARKER = re.compile(r"<!-- ([a-z ]+?)(?:: (\S.*?))? -->")
FLAGS = re.compile(r"(?P<flags>-[\w-]+(?:(?:, | / )-[\w-]+)*) *(?P<values>.*)")
HELP_COLUMNS = "80"

# What each kind of error means; a kind that is missing here fails the build.
ERROR_KINDS: Mapping[str, str] = {
    "empty": "The file has 0 bytes.",
    "truncated": "The image is truncated or corrupt.",
    "not_an_image": "HTML, PDF, a video, a Git LFS pointer, text or anything else; the message "
    "says what was found.",
    "unsupported_format": "An image in a format that effnet does not open: SVG, raw, NIfTI, "
    "HEIC without the extra `heic`, DICOM without `dicom`, JPEG XL and rare TIFFs without "
    "`science`, ...",
    "too_large": "More pixels than `--max-pixels` according to the header, or a decompression "
    "bomb.",
    "unreadable": "No permission, a failing disk, or a URL that does not respond.",
    "not_a_file": "A folder, pipe, socket, device, or a file of the kernel.",
    "missing": "No such file, a broken symlink, a pattern without a match, or a frame that the "
    "image does not have.",
    "timeout": "Decoding took longer than `--timeout` seconds.",
    "crashed": "The decoder crashed (with `--isolate` or `--timeout`).",
}
EXIT_STATUSES: Mapping[int, str] = {
    0: "Success.",
    errors.EffnetError.exit_status: "Some images failed, or the run did.",
    errors.UsageError.exit_status: "Wrong use: an invalid option, a refused dataset or file.",
    errors.CHECK_FAILED_STATUS: "A check failed: an export that differs from its model, `evaluate "
    "--fail-under`, a slowdown or no common timing for `bench --compare`.",
    exit_statuses.INTERRUPTED_STATUS: "Stopped by Ctrl-C (SIGINT).",
    exit_statuses.BROKEN_PIPE_STATUS: "The reader of stdout closed the pipe.",
    exit_statuses.TERMINATED_STATUS: "Stopped by SIGTERM.",
}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for each page."""
    return fill(markdown)


def fill(markdown: str) -> str:
    """Replace the markers of a page.

    Raises:
        PluginError: a marker is unknown, or what it names does not exist.
    """
    return MARKER.sub(_render, markdown)


def _render(found: "re.Match[str]") -> str:
    name, argument = found.groups()
    try:
        render = MARKERS[name]
        return "\n".join(render() if argument is None else render(argument))
    except (KeyError, AttributeError, TypeError, OSError) as error:
        raise PluginError(f"Invalid marker {found.group()!r}: {error!r}") from error


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for cells in (columns, ["---"] * len(columns), *rows):
        yield f"| {' | '.join(map(_cell, cells))} |"


def _codes(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


# --- options and help ----------------------------------------------------------------------------


def options_tables(command: str) -> Iterator[str]:
    """The options of a command, a table for each section of its help."""
    click_command: Any = typer.main.get_command(build_app())
    for word in command.split():
        click_command = click_command.commands[word]
    context = click_command.context_class(click_command)
    sections: dict[str, list[tuple[str, ...]]] = {}
    for parameter in click_command.get_params(context):
        if parameter.name != "help":
            section = getattr(parameter, "rich_help_panel", None) or "Arguments"
            sections.setdefault(section, []).append(
                _option_row(*parameter.get_help_record(context))
            )
    for section, rows in sections.items():
        yield from (f"**{section}**", "", *_table(("option", "values", "default", ""), rows), "")


def _option_row(usage: str, text: str) -> tuple[str, ...]:
    match = FLAGS.fullmatch(usage)
    flags, values = (match["flags"], match["values"]) if match else (usage.split(" ")[0], "")
    description, _, default = text.partition(" [default: ")
    description, _, required = description.partition("  [required")
    choices = [value for value in values.strip("<>").split("|") if value]
    default = "required" if required else default.removesuffix("]")
    return _codes(re.split(r", | / ", flags)), _codes(choices), default, f"{description}."


def command_help(command: str) -> Iterator[str]:
    """The output of `effnet COMMAND --help` in a terminal of 80 columns."""
    done = subprocess.run(
        [sys.executable, "-m", "effnet_cli", *command.split(), "--help"],
        capture_output=True,
        check=True,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": HELP_COLUMNS},
    )
    yield from ("```text", *(line.rstrip() for line in done.stdout.splitlines()), "```")


def option_fields(name: str) -> Iterator[str]:
    """The fields of a dataclass of options, for Python callers."""
    group = getattr(options, name)
    rows = [
        (f"`{field.name}`", _type_text(field), f"`{field.default!r}`", _help_text(field))
        for field in dataclasses.fields(group)
    ]
    yield from ((group.__doc__ or "").strip().replace("\n    ", "\n"), "")
    yield from _table(("field", "type", "default", ""), rows)


def _type_text(field: fields.Field) -> str:
    return " or ".join(f"`{part}`" for part in _type_parts(field.type))


def _type_parts(kind: Any) -> Iterator[str]:
    """The alternatives of a type, with each literal separately."""
    if get_origin(kind) in (Literal, Union, UnionType):
        for part in get_args(kind):
            yield from [repr(part)] if isinstance(part, str) else _type_parts(part)
    else:
        yield "None" if kind is NoneType else kind.__name__


def _help_text(field: fields.Field) -> str:
    text = field.metadata.get("help")
    return f"{text}." if text else ""


# --- registries ----------------------------------------------------------------------------------


def variants_table() -> Iterator[str]:
    costs = ("input size (px)", "parameters", "multiply-adds")
    columns = ("variant", *costs, "top-1", "top-5", "trained on", "weights")
    yield from _table(columns, map(_variant_row, select_variants(ShowOptions())))


def timm_table() -> Iterator[str]:
    rows = [
        (
            f"`{row.name}`",
            f"`{row.weight_set}`",
            f"{row.preprocessing.crop_px}",
            f"{row.top1:.1f}",
            row.trained_on,
            f"{row.source.size_mb:,.0f} MB",
        )
        for row in VARIANTS.values()
        if row.source.repo is not None
    ]
    columns = ("variant", "timm's name", "input size (px)", "top-1", "trained on", "download")
    yield from _table(columns, rows)


def excluded_table() -> Iterator[str]:
    rows = [(f"`{pattern}`", f"{reason}.") for pattern, reason in EXCLUDED.items()]
    yield from _table(("timm's name", "reason"), rows)


def _variant_row(variant: Variant) -> tuple[str, ...]:
    source = variant.source
    if source.package is None:
        origin = "torchvision" if source.repo is None else "timm"
        weights = f"{origin}, {source.size_mb:,.0f} MB"
    else:
        weights = f"extra `{source.extra}`" if source.extra else "installed with effnet"
    return (
        f"`{variant.name}`" + (" (default)" if variant.name == DEFAULT_VARIANT else ""),
        f"{variant.preprocessing.crop_px}",
        f"{variant.architecture.parameters / 1e6:.1f} M",
        f"{variant.giga_multiply_adds:.2f} G",
        f"{variant.top1:.1f}",
        "-" if variant.top5 is None else f"{variant.top5:.1f}",
        variant.trained_on,
        weights,
    )


def engines_table() -> Iterator[str]:
    suffixes = {kind: f"`{suffix}`" for suffix, kind in EXPORT_KINDS.items()}
    rows = [
        (
            f"`{name}`",
            "; ".join(
                f"{device}: {', '.join(precisions)}"
                for device, precisions in row.precisions.items()
            ),
            ", ".join(suffixes.get(kind, "model files") for kind in row.kinds),
            f"`{row.install}`",
        )
        for name, row in ENGINES.items()
    ]
    yield from _table(("engine", "devices and precisions", "runs", "installation"), rows)


def targets_table() -> Iterator[str]:
    rows = [
        (
            f"[`{name}`](export/{name}.md)",
            _codes((row.suffix, *row.companions)) if row.suffix else row.form,
            row.use,
            ", ".join((*row.precisions, *(["int8"] if row.has_int8 else []))),
            f"`{row.install}`",
        )
        for name, row in TARGETS.items()
    ]
    yield from _table(("target", "files", "for", "precisions", "installation"), rows)


def metrics_table() -> Iterator[str]:
    rows = [
        (
            f"`{metric.name}`",
            metric.label,
            "yes" if metric.can_limit else "no",
            f"null unless there are {metric.needs}" if metric.needs else "",
        )
        for metric in METRICS
    ]
    yield from _table(("key", "metric", "`--fail-under`", ""), rows)


def error_kinds_table() -> Iterator[str]:
    kinds = get_args(options.ErrorKind)
    rows = [(f"`{kind}`", ERROR_KINDS[kind]) for kind in kinds]
    yield from _table(("`error.kind`", "cause"), rows)


def exit_statuses_table() -> Iterator[str]:
    rows = [(f"{status}", meaning) for status, meaning in EXIT_STATUSES.items()]
    yield from _table(("status", "meaning"), rows)


# --- files of the project ------------------------------------------------------------------------


def readme() -> Iterator[str]:
    """The README as the first page, without its section for developers."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Development")[0]
    yield text.replace("](docs/", "](").replace("](sample_images/README.md", "](samples.md")


def file(path: str) -> Iterator[str]:
    yield (ROOT / path).read_text(encoding="utf-8")


MARKERS: Mapping[str, Callable[..., Iterator[str]]] = {
    "options": options_tables,
    "help": command_help,
    "fields": option_fields,
    "variants": variants_table,
    "timm": timm_table,
    "excluded": excluded_table,
    "engines": engines_table,
    "targets": targets_table,
    "metrics": metrics_table,
    "error kinds": error_kinds_table,
    "exit statuses": exit_statuses_table,
    "readme": readme,
    "file": file,
}
