"""Dataclass fields that are options: besides type and default, they have help, flags and bounds."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict, TypeVar, Unpack, get_args, get_origin

from effnet_cli.system.errors import UsageError

T = TypeVar("T")
Field = dataclasses.Field[Any]
REQUIRED: Any = dataclasses.MISSING
# What a field takes, by its type.
PLAIN_TYPES: Mapping[type, str] = {Path: "a path", bool: "True or False", str: "a string"}


class OptionInfo(TypedDict, total=False):
    """What a field says about its option besides type, default, help and usage.

    `section` overrides the group's section. `words` maps special texts to the values that they
    stand for, and `parse` converts all other texts. `shown` is the default's text in `--help`, if
    the value itself is not clear. `min` and `max` are inclusive bounds, `above` and `below`
    exclusive ones.
    """

    section: str
    words: Mapping[str, object]
    parse: Callable[[str], object]
    shown: str
    min: float
    max: float
    above: float
    below: float
    is_required: bool


def option(default: T, help: str, usage: str = "", **info: Unpack[OptionInfo]) -> T:  # noqa: A002
    """Create a dataclass field that is also a command-line option.

    `usage` lists its flags and its metavar, such as `-o FILE`. A long flag in it replaces the one
    made from the field's name.
    """
    flags = [part for part in usage.split() if part.startswith("-")]
    metavar = usage.split()[len(flags) :]
    metadata = {"help": help, "flags": flags, "metavar": "".join(metavar), **info}
    field: T = dataclasses.field(default=default, metadata=metadata)
    return field


def argument(default: T, help: str, metavar: str, **info: Unpack[OptionInfo]) -> T:  # noqa: A002
    """Create a dataclass field that is also a positional argument of the command line."""
    metadata = {"help": help, "metavar": metavar, "is_argument": True, **info}
    field: T = dataclasses.field(default=default, metadata=metadata)
    return field


class Only:
    """Selects the fields of a group that a command offers: `Annotated[Group, Only("a", "b")]`."""

    def __init__(self, *names: str) -> None:
        self.names = names


class Options:
    """A group of options under one heading of `--help`."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Convert lists to tuples and strings to paths, and check all values."""
        this: Any = self
        for field in dataclasses.fields(this):
            given = getattr(self, field.name)
            value = _convert(field, given)
            if value is not given:
                object.__setattr__(self, field.name, value)
            for one in value if isinstance(value, tuple) else (value,):
                if not is_valid(field, one):
                    raise invalid_value(field, field.name, one)


def _convert(field: Field, value: object) -> object:
    if not is_list(field):
        return _convert_text(field, value)
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple(_convert_text(field, one) for one in values)


def _convert_text(field: Field, value: object) -> object:
    if not isinstance(value, str):
        return value
    if "parse" in field.metadata:
        return field.metadata["parse"](value)
    return Path(value) if Path in types_of(field) else value


def is_valid(field: Field, value: object) -> bool:
    """Return whether a value has the type of its field, or of one of its values, and is one of its
    choices or within its bounds, if there are any.
    """
    if value is None:
        return field.default is None or type(None) in types_of(field)
    if value in words_of(field).values():
        return True
    if choices_of(field):
        return value in choices_of(field)
    if number_type(field) is not None:
        return _is_within_bounds(field, value)
    kind = _plain_type(field)
    return kind is None or isinstance(value, kind)


def _is_within_bounds(field: Field, value: object) -> bool:
    info = field.metadata
    if not info.keys() & {"min", "above"}:
        return True
    return (
        isinstance(value, int if number_type(field) is int else int | float)
        and math.isfinite(value)
        and info.get("min", -math.inf) <= value <= info.get("max", math.inf)
        and info.get("above", -math.inf) < value < info.get("below", math.inf)
    )


def invalid_value(field: Field, name: str, value: object) -> UsageError:
    """Return the error that names an invalid value and says what is valid."""
    choices = choices_of(field)
    if choices:
        what = name.lstrip("-") if is_list(field) else field.name.replace("_", "-")
        return UsageError(f"Unknown {what} {value!r}.", f"Use {', '.join(choices)}.")
    kind = _plain_type(field)
    if kind is not None:
        return UsageError(f"Invalid {name} {value!r}.", f"Use {PLAIN_TYPES[kind]}.")
    words = "".join(f"{word} or " for word in words_of(field))
    return UsageError(f"Invalid {name} {value!r}.", f"Use {words}{_valid_numbers(field)}.")


def _valid_numbers(field: Field) -> str:
    info, what = field.metadata, "whole number" if number_type(field) is int else "number"
    if "max" in info and "above" in info:
        bounds = f"above {info['above']}, up to {info['max']:.15g}"
    elif "max" in info:
        bounds = f"from {info['min']} to {info['max']}"
    elif "below" in info:
        bounds = f"above {info['above']} and below {info['below']}"
    else:
        bounds = f"above {info['above']}" if "above" in info else f"of at least {info['min']}"
    return f"{what}s {bounds}, separated by commas" if is_list(field) else f"a {what} {bounds}"


def is_list(field: Field) -> bool:
    """Return whether a field takes several values."""
    return get_origin(field.type) is tuple


def types_of(field: Field) -> tuple[Any, ...]:
    """Return a field's type, and the types inside it if it is a tuple or a union."""
    return (field.type, *get_args(field.type))


def number_type(field: Field) -> type[int] | type[float] | None:
    """Return the type of a field's number or numbers, `int` or `float`; `None` for other fields."""
    return next((kind for kind in (int, float) if kind in types_of(field)), None)


def _plain_type(field: Field) -> type | None:
    """Return the type of a field's value or values if it is one of `PLAIN_TYPES`, else `None`."""
    if number_type(field) is not None:
        return None
    return next((kind for kind in PLAIN_TYPES if kind in types_of(field)), None)


def choices_of(field: Field) -> tuple[str, ...]:
    """Return the valid texts of a literal, or of a list of literals."""
    literals = [kind for kind in types_of(field) if get_origin(kind) is Literal]
    return () if number_type(field) or not literals else get_args(literals[0])


def words_of(field: Field) -> Mapping[str, object]:
    """Return the special texts of a field, with the values that they stand for."""
    words: Mapping[str, object] = field.metadata.get("words", {})
    return words


def long_flag(field: Field) -> str:
    """Return a field's long flag, such as `--top-k`."""
    flags = field.metadata.get("flags", ())
    name = f"--{field.name.replace('_', '-')}"
    return next((flag for flag in flags if flag.startswith("--")), name)
