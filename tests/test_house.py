"""The structure of the package: few entries, small functions, unique names."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import effnet_cli

PACKAGE = Path(effnet_cli.__file__).parent
TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}
MAX_ENTRIES = 20
MAX_FUNCTION_LINES, MAX_CLASS_LINES = 60, 200
MAX_PARAMETERS, MAX_POSITIONAL = 8, 3


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    for name, tree in TREES.items():
        yield from ((name, node) for node in ast.walk(tree) if isinstance(node, kinds))


def test_package_has_few_entries() -> None:
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MAX_ENTRIES, sorted(entries)


@pytest.mark.parametrize(
    ("kind", "limit"), [(ast.FunctionDef, MAX_FUNCTION_LINES), (ast.ClassDef, MAX_CLASS_LINES)]
)
def test_definitions_are_short(kind: type[ast.FunctionDef | ast.ClassDef], limit: int) -> None:
    lengths = {
        f"{name}:{node.name}": node.end_lineno - node.lineno + 1  # type: ignore[attr-defined]
        for name, node in nodes(kind)
    }
    assert len(lengths) > 100
    assert {name: lines for name, lines in lengths.items() if lines > limit} == {}


def test_functions_take_few_parameters() -> None:
    def count(node: ast.FunctionDef) -> int:
        names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
        return len(names) - (names[:1] in (["self"], ["cls"])) + len(node.args.kwonlyargs)

    counts = {f"{n}:{node.name}": count(node) for n, node in nodes(ast.FunctionDef)}  # type: ignore[attr-defined, arg-type]
    assert {name: number for name, number in counts.items() if number > MAX_PARAMETERS} == {}


def test_package_functions_are_called_by_keyword() -> None:
    defined = {node.name for _, node in nodes(ast.FunctionDef, ast.ClassDef)}  # type: ignore[attr-defined]
    long_calls = [
        f"{name}:{node.lineno} {called}"  # type: ignore[attr-defined]
        for name, node in nodes(ast.Call)
        if len(node.args) > MAX_POSITIONAL and (called := _called(node)) in defined  # type: ignore[attr-defined, arg-type]
    ]
    assert long_calls == []


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Name):
        return call.func.id
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def test_a_name_has_one_meaning() -> None:
    places: dict[str, set[str]] = defaultdict(set)
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].add(name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in (inner for one in targets for inner in ast.walk(one)):
                    if isinstance(target, ast.Name) and target.id.isupper() and target.id[1:]:
                        places[target.id].add(name)
    assert len(places) > 100
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_packages_only_re_export() -> None:
    for name, tree in TREES.items():
        if name.endswith("/__init__.py"):
            kinds = {type(node) for node in tree.body}
            assert kinds <= {ast.Expr, ast.ImportFrom, ast.Assign}, name
