"""Commands from functions: every group of options that a function takes becomes its flags."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand

from effnet_cli.system import fields
from effnet_cli.system.errors import UsageError

Field = fields.Field
Values = Mapping[str, Any]
FLAGS_WIDTH = 24  # columns of --help; longer flags have a line of their own


def add_command(
    app: typer.Typer, run: Callable[..., int | None], *, name: str | None = None, epilog: str = ""
) -> None:
    """Add `run` as a command of its name.

    Each of its parameters is a dataclass of `options`, whose fields become flags; `typed` gets the
    names of the fields that were given. It returns the exit status.
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


class _Command(TyperCommand):
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


def _split(group: Any) -> tuple[Any, tuple[str, ...] | None]:
    """The dataclass, and the names of the fields that are offered, where not all are."""
    if _is_optional(group):
        group = next(kind for kind in get_args(group) if kind is not type(None))
    if get_origin(group) is Annotated:
        cls, only = get_args(group)
        return cls, only.names
    return group, None


def _is_group(field: Field) -> bool:
    return "help" not in field.metadata and dataclasses.is_dataclass(_split(field.type)[0])


def _is_optional(kind: Any) -> bool:
    return type(None) in get_args(kind)


def _is_offered(field: Field, names: tuple[str, ...] | None) -> bool:
    return "help" in field.metadata and (names is None or field.name in names)


def _offered(group: Any) -> Iterator[tuple[Field, str]]:
    """The fields of a group and of the groups in it, and their sections; a class's own come before
    those that it inherits.
    """
    cls, names = _split(group)
    depths = {
        name: depth
        for depth, base in enumerate(cls.__mro__)
        for name in vars(base).get("__annotations__", ())
    }
    for field in sorted(dataclasses.fields(cls), key=lambda field: depths[field.name]):
        if _is_group(field):
            yield from _offered(field.type)
        elif _is_offered(field, names):
            yield field, field.metadata.get("section") or cls.section


def _build(group: Any, values: Values) -> Any:
    """The dataclass with the values that were given, by keyword; `None` for an optional one of
    which nothing was given.

    Raises:
        UsageError: a value is not valid, or one is missing.
    """
    cls, names = _split(group)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if _is_group(field):
            given[field.name] = _build(field.type, values)
        elif _is_offered(field, names) and _is_given(values[field.name]):
            given[field.name] = _convert(field, values[field.name])
    if _is_optional(group) and not given:
        return None
    for field in dataclasses.fields(cls):
        if field.default is fields.REQUIRED and field.name not in given:
            (flag, *_) = [fields.long_flag(f) for f in dataclasses.fields(cls) if f.name in given]
            needed = f"{fields.long_flag(field)} {field.metadata['metavar']}"
            raise UsageError(f"{flag} needs {needed}.", f"Add {needed}.")
    return cls(**given)


def _is_given(value: object) -> bool:
    return value is not None and value != []


# --- one option ----------------------------------------------------------------------------------


def _parameter(field: Field, section: str) -> inspect.Parameter:
    """The parameter of which Typer makes an option or argument; `None` where it is not given."""
    info = field.metadata
    shared = {
        "metavar": info.get("metavar") or _metavar(field),
        "help": info["help"] + _default_text(field),
        "show_default": False,
    }
    if info.get("is_argument"):
        declared = typer.Argument(**shared)
    else:
        short = [flag for flag in info["flags"] if not flag.startswith("--")]
        long = fields.long_flag(field)
        declared = typer.Option(long, *short, rich_help_panel=section, **shared)
    is_missing = info.get("is_argument") and field.default is fields.REQUIRED
    kind, is_required = _text_type(field), is_missing or info.get("is_required", False)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[kind if is_required else kind | None, declared],
        default=inspect.Parameter.empty if is_required else None,
    )


def _text_type(field: Field) -> Any:
    """What Typer makes of the text: a path, a choice or a flag; numbers are parsed here."""
    if fields.is_list(field):
        return list[Path] if Path in get_args(field.type) else list[str]
    if fields.number_type(field) is not None or "parse" in field.metadata:
        return str
    kinds = [kind for kind in get_args(field.type) if kind is not type(None)]
    is_optional = len(kinds) < len(get_args(field.type))
    return kinds[0] if is_optional else field.type


def _metavar(field: Field) -> str | None:
    number = fields.number_type(field)
    if number is None:
        return None
    return "|".join((*fields.words_of(field), "N" if number is int else "X"))


def _default_text(field: Field) -> str:
    default, shown = field.default, field.metadata.get("shown")
    words = [word for word, value in fields.words_of(field).items() if value is default]
    if shown is None and words:
        shown = words[0]
    elif shown is None and not any(
        default is empty for empty in (None, False, (), fields.REQUIRED)
    ):
        shown = f"{default:g}" if isinstance(default, float) else str(default)
    return f" [default: {shown}]" if shown else ""


def _convert(field: Field, value: Any) -> object:
    if not fields.is_list(field):
        return _convert_text(field, value) if isinstance(value, str) else value
    if field.metadata.get("is_argument") or Path in get_args(field.type):
        return tuple(value)
    texts = [text for part in value for text in part.split(",")]
    words = fields.words_of(field)
    if len(texts) == 1 and texts[0] in words:
        return words[texts[0]]
    return tuple(_convert_text(field, text) for text in texts)


def _convert_text(field: Field, text: str) -> object:
    words, number = fields.words_of(field), fields.number_type(field)
    if text in words:
        return words[text]
    if "parse" in field.metadata:
        return field.metadata["parse"](text)
    if number is None:
        choices = fields.choices_of(field)
        if choices and text not in choices:
            raise fields.invalid_value(field, fields.long_flag(field), text)
        return text
    try:
        value = number(text)
    except ValueError:
        value = math.nan
    if not fields.is_valid(field, value):
        raise fields.invalid_value(field, fields.long_flag(field), text)
    return value
