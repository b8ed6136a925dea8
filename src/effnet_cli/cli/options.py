"""Turn functions into commands: each group of options that a function takes becomes flags."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from effnet_cli.system import fields
from effnet_cli.system.errors import UsageError

Field = fields.Field
Values = Mapping[str, Any]
FLAGS_WIDTH = 24  # columns in --help; longer flags get their own line


def add_command(
    app: typer.Typer, run: Callable[..., int | None], *, name: str | None = None, epilog: str = ""
) -> None:
    """Add `run` as a command called `name`, by default the function's name.

    Each parameter of `run` is a dataclass of `options`, whose fields become flags, except `typed`,
    which gets the names of the fields that were given. `run` returns the exit status.
    """
    groups = get_type_hints(run, include_extras=True)
    del groups["return"]
    has_typed = groups.pop("typed", None) is not None

    def callback(**values: Any) -> int:
        arguments = {name: _build(group, values) for name, group in groups.items()}
        if has_typed:
            arguments["typed"] = frozenset(filter(lambda name: _is_given(values[name]), values))
        return run(**arguments) or 0

    parameters = [_parameter(*one) for group in groups.values() for one in _offered(group)]
    callback.__doc__ = run.__doc__
    callback.__dict__["__signature__"] = inspect.Signature(parameters)
    app.command(name or run.__name__, epilog=epilog, cls=_Command)(callback)


class _Unconverted:
    """Replaces Typer's converter of a parameter's values, and leaves them as they are: `_build`
    converts them. Typer's own conversion would import pydantic, which takes 20 ms.
    """

    @staticmethod
    def coerce(value: Any, **_: object) -> Any:
        return value


class _TextParameters:
    """Keeps the values of a command's parameters, including `--help`, as they were typed."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            parameter.__dict__["get_runtime_param"] = _Unconverted
        return parameters


class CommandGroup(_TextParameters, TyperGroup):
    """A group of commands."""


class _Command(_TextParameters, TyperCommand):
    """Lists options under the headings of their groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            default = "Arguments" if isinstance(parameter, TyperArgument) else "Other"
            section = getattr(parameter, "rich_help_panel", None) or default
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                padded = [(f"{flags:<{FLAGS_WIDTH}}", text) for flags, text in records]
                formatter.write_dl(padded, col_max=FLAGS_WIDTH)


def _members(group: Any) -> tuple[Any, list[Field]]:
    """Return the dataclass of `Group`, `Group | None` or `Annotated[Group, Only(...)]`, and those
    of its fields that are groups or are offered.
    """
    parts = (group, *get_args(group))
    cls: Any = next(part for part in parts if dataclasses.is_dataclass(part))
    names = tuple(field.name for field in dataclasses.fields(cls) if "help" in field.metadata)
    names = next((part.names for part in parts if isinstance(part, fields.Only)), names)
    return cls, [f for f in dataclasses.fields(cls) if f.name in names or _is_group(f)]


def _is_group(field: Field) -> bool:
    is_option = "help" in field.metadata
    return not is_option and any(map(dataclasses.is_dataclass, fields.types_of(field)))


def _offered(group: Any) -> Iterator[tuple[Field, str]]:
    """Yield the fields of a group and its nested groups, with their sections.

    A class's own fields come before inherited ones.
    """
    cls, members = _members(group)
    own = [inspect.get_annotations(base).keys() for base in cls.__mro__]
    for field in sorted(members, key=lambda field: [field.name in names for names in own][::-1]):
        if _is_group(field):
            yield from _offered(field.type)
        else:
            yield field, field.metadata.get("section") or cls.section


def _build(group: Any, values: Values) -> Any:
    """Create the dataclass from the values that were given, or return `None` if the group is
    optional and none was given.

    Raises:
        UsageError: a value is not valid, or one is missing.
    """
    cls, members = _members(group)
    given: dict[str, Any] = {}
    for field in members:
        if _is_group(field):
            given[field.name] = _build(field.type, values)
        elif _is_given(values[field.name]):
            given[field.name] = _convert(field, values[field.name])
    if not given and type(None) in get_args(group):
        return None
    for field in members:
        if field.default is fields.REQUIRED and field.name not in given:
            flag = next(fields.long_flag(other) for other in members if other.name in given)
            needed = f"{fields.long_flag(field)} {field.metadata['metavar']}"
            raise UsageError(f"{flag} requires {needed}.", f"Add {needed}.")
    return cls(**given)


def _is_given(value: object) -> bool:
    return value is not None and value not in ([], ())


# --- one option ----------------------------------------------------------------------------------


def _parameter(field: Field, section: str) -> inspect.Parameter:
    """Create the parameter that Typer turns into an option or argument (`None` if not given)."""
    info, is_argument = field.metadata, "is_argument" in field.metadata
    shared = {
        "metavar": info["metavar"] or _metavar(field),
        "help": info["help"] + _default_text(field),
        "show_default": False,
        "autocompletion": lambda: fields.choices_of(field),
    }
    if is_argument:
        declared = typer.Argument(**shared)
    else:
        flags = [fields.long_flag(field), *(f for f in info["flags"] if not f.startswith("--"))]
        declared = typer.Option(*flags, rich_help_panel=section, **shared)
    is_required = info.get("is_required") or (is_argument and field.default is fields.REQUIRED)
    kind = _text_type(field)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[kind if is_required else kind | None, declared],
        default=inspect.Parameter.empty if is_required else None,
    )


def _text_type(field: Field) -> Any:
    """Return the type for Typer's help and parser: a flag or a path, or else text."""
    kinds = fields.types_of(field)
    if fields.is_list(field):
        return list[Path] if Path in kinds else list[str]
    return next((kind for kind in (bool, Path) if kind in kinds), str)


def _metavar(field: Field) -> str | None:
    number = fields.number_type(field)
    if number is None:
        return "|".join(fields.choices_of(field)) or None
    return "|".join((*fields.words_of(field), "N" if number is int else "X"))


def _default_text(field: Field) -> str:
    default = field.default
    words = [word for word, value in fields.words_of(field).items() if value is default]
    is_empty = default in (None, ()) or default is False or default is fields.REQUIRED
    text = f"{default:g}" if isinstance(default, float) else str(default)
    shown = field.metadata.get("shown", words[0] if words else "" if is_empty else text)
    return f" [default: {shown}]" if shown else ""


def _convert(field: Field, value: Any) -> object:
    _check_not_empty(field, value)
    if not fields.is_list(field):
        return _convert_text(field, value) if isinstance(value, str) else value
    if Path in get_args(field.type):
        return tuple(map(Path, value))
    if field.metadata.get("is_argument"):
        return tuple(value)
    texts = [text for part in value for text in part.split(",")]
    words = fields.words_of(field)
    if len(texts) == 1 and texts[0] in words:
        return words[texts[0]]
    return tuple(_convert_text(field, text) for text in texts)


def _check_not_empty(field: Field, value: Any) -> None:
    """Refuse an empty text, as of a shell variable that is not set: as a path, it would stand for
    the current folder.
    """
    if value == "" or (fields.is_list(field) and "" in value):
        is_argument = "is_argument" in field.metadata
        name = field.metadata["metavar"] if is_argument else fields.long_flag(field)
        what = f"One of {name}" if is_argument and fields.is_list(field) else name
        raise UsageError(
            f"{what} is empty.", "Pass a value; if it is a variable, check that it is set."
        )


def _convert_text(field: Field, text: str) -> object:
    words, number = fields.words_of(field), fields.number_type(field)
    value: object = text
    if text in words:
        return words[text]
    if "parse" in field.metadata:
        return field.metadata["parse"](text)
    if Path in fields.types_of(field):
        return Path(text)
    if number is not None:
        try:
            value = number(text)
        except ValueError:
            value = math.nan
    if not fields.is_valid(field, value):
        raise fields.invalid_value(field, fields.long_flag(field), text)
    return value
