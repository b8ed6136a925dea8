"""Commands are derived from the fields of the option dataclasses."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer

from effnet_cli import options
from effnet_cli.cli.options import add_command
from effnet_cli.system.errors import UsageError
from effnet_cli.system.fields import REQUIRED, Only, Options, argument, option

EMPTY_HINT = "Pass a value; if it is a variable, check that it is set."


@dataclass(frozen=True)
class Inner(Options):
    section = "Inner"

    count: int | None = option(None, "A count", "-c", words={"auto": None}, min=1, max=9)
    share: float = option(0.5, "A share", above=0, below=1)
    hidden: int = option(3, "Not offered", min=0)


@dataclass(frozen=True)
class Optional(Options):
    section = "Optional"

    folder: Path = option(REQUIRED, "A folder", "DIR")
    is_new: bool = option(False, "New", "--new")


@dataclass(frozen=True)
class Task(Options):
    section = "Task"

    names: tuple[str, ...] = argument(REQUIRED, "Names", "NAMES")
    inner: Annotated[Inner, Only("count", "share")] = Inner()
    optional: Optional | None = None
    kinds: tuple[Literal["a", "b"], ...] = option((), "Kinds", words={"all": ()})
    sizes: tuple[int, ...] = option((), "Sizes", min=1)
    files: tuple[Path, ...] = option((), "Files")
    color: Literal["red", "green"] = option("red", "A color")


def parse(*arguments: str) -> tuple[Task, frozenset[str]]:
    found: list[Any] = []

    def run(task: Task, typed: frozenset[str]) -> int:
        """Run it."""
        found.extend((task, typed))
        return 7

    app = typer.Typer(rich_markup_mode=None)
    add_command(app, run)
    assert app(arguments, standalone_mode=False) == 7
    return found[0], found[1]


def test_defaults_stand_in_the_dataclass() -> None:
    assert parse("x") == (Task(("x",)), {"names"})


def test_values_are_converted_and_built_by_keyword() -> None:
    task, typed = parse(
        *("x,y", "z", "-c", "4", "--share", "0.25", "--kinds", "a,b", "--sizes", "1,2"),
        *("--sizes", "3", "--files", "a,b", "--files", "c", "--color", "green"),
        *("--folder", "d", "--new"),
    )
    assert task == Task(
        ("x,y", "z"),
        inner=Inner(4, 0.25),
        optional=Optional(Path("d"), is_new=True),
        kinds=("a", "b"),
        sizes=(1, 2, 3),
        files=(Path("a,b"), Path("c")),
        color="green",
    )
    assert typed >= {"count", "share", "is_new"} and "hidden" not in typed


def test_words_stand_for_values_and_count_as_typed() -> None:
    task, typed = parse("x", "--count", "auto", "--kinds", "all")
    assert (task.inner.count, task.kinds) == (None, ())
    assert typed == {"names", "count", "kinds"}


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["-c", "0"], "Invalid --count '0'.", "Use auto or a whole number from 1 to 9."),
        (["-c", "1.5"], "Invalid --count '1.5'.", "Use auto or a whole number from 1 to 9."),
        (["--share", "1"], "Invalid --share '1'.", "Use a number above 0 and below 1."),
        (["--share", "nan"], "Invalid --share 'nan'.", "Use a number above 0 and below 1."),
        (["--kinds", "a,c"], "Unknown kinds 'c'.", "Use a, b."),
        (["--color", "blue"], "Unknown color 'blue'.", "Use red, green."),
        (
            ["--sizes", "1,0"],
            "Invalid --sizes '0'.",
            "Use whole numbers of at least 1, separated by commas.",
        ),
        (["--folder", ""], "--folder is empty.", EMPTY_HINT),
        (["--files", "a", "--files="], "--files is empty.", EMPTY_HINT),
        (["-c", ""], "--count is empty.", EMPTY_HINT),
        (["--color", ""], "--color is empty.", EMPTY_HINT),
        ([""], "One of NAMES is empty.", EMPTY_HINT),
        (["--new"], "--new requires --folder DIR.", "Add --folder DIR."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_values_are_refused(arguments: list[str], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse("x", *arguments)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_python_callers_get_the_same_bounds() -> None:
    with pytest.raises(UsageError) as caught:
        Inner(count=0)
    assert caught.value.message == "Invalid count 0."
    assert caught.value.hint == "Use auto or a whole number from 1 to 9."
    for values in ({"share": 1}, {"share": float("nan")}, {"hidden": -1}, {"hidden": 1.5}):
        with pytest.raises(UsageError):
            Inner(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({"color": "blue"}, "Unknown color 'blue'.", "Use red, green."),
        ({"color": None}, "Unknown color None.", "Use red, green."),
        ({"kinds": ("a", "c")}, "Unknown kinds 'c'.", "Use a, b."),
        ({"files": [3]}, "Invalid files 3.", "Use a path."),
        ({"names": (3,)}, "Invalid names 3.", "Use a string."),
    ],
)
def test_python_callers_get_the_same_choices(
    values: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Task(**({"names": ("x",)} | values))
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_strings_become_paths_and_lists_tuples() -> None:
    task = Task(["x"], files=["a", Path("b")], sizes=3)  # type: ignore[arg-type, list-item]
    assert (task.names, task.files, task.sizes) == (("x",), (Path("a"), Path("b")), (3,))


def test_help_has_sections_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    def run(task: Task) -> int:
        """Run it."""
        raise AssertionError

    app = typer.Typer(rich_markup_mode=None)
    add_command(app, run)
    app(["--help"], standalone_mode=False)
    text = capsys.readouterr().out
    places = [text.index(f"{name}:\n") for name in ("Arguments", "Inner", "Optional", "Task")]
    assert places == sorted(places)
    assert "[default: auto]" in text and "[default: 0.5]" in text
    assert "--hidden" not in text


def test_every_option_has_help_and_every_group_a_section() -> None:
    groups = [
        value
        for value in vars(options).values()
        if isinstance(value, type) and issubclass(value, Options) and value is not Options
    ]
    assert len(groups) > 15
    for group in groups:
        for field in fields(group):  # type: ignore[arg-type]
            info = field.metadata
            if "help" in info and not info.get("is_argument"):
                assert info.get("section") or group.section, field.name
                assert info["help"][0].isupper() and not info["help"].endswith("."), field.name
