"""Show an audit as text and tables."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from effnet_cli.audit.records import PROBLEM_KINDS, Audit, Problem, ProblemKind
from effnet_cli.output.tables import Block, Table
from effnet_cli.system.text import pluralize

MAX_LISTED = 5  # problems of a kind; the CSV and the page have more
MAX_LISTED_CLASSES = 20  # rows of the tables of classes


def blocks(found: Audit) -> Iterator[Block]:
    """Yield what was found about the dataset, its classes and its files."""
    yield from headline(found)
    yield from findings(found)
    yield from border_lines(found)
    for table in (kinds_table(found), similar_table(found), classes_table(found)):
        if table.rows:
            yield replace(table, rows=table.rows[:MAX_LISTED_CLASSES])
    for kind, problems in by_kind(found):
        yield problems_table(kind, problems[:MAX_LISTED])
    yield from found.notes


def headline(found: Audit) -> Iterator[str]:
    """Yield how many images and classes there are, and how many files have a problem."""
    files = len({problem.path for problem in found.problems})
    yield (
        f"{found.root}: {pluralize(found.images, 'image')} of "
        f"{pluralize(len(found.classes), 'class', 'classes')} ({found.layout}); "
        f"{pluralize(files, 'file')} with a problem."
    )
    if found.accuracy is not None:
        yield (
            f"A linear classifier of the features of {found.model} recognises {found.accuracy:.1%} "
            f"of images that it was not trained on (mean over the classes, {found.folds} folds)."
        )


def findings(found: Audit) -> Iterator[str]:
    """Yield the findings about classes."""
    for one in found.findings:
        yield f"{one.level.capitalize()}: {one.message} {one.hint}".rstrip()
        yield from (f"    {path}" for path in one.paths)


def border_lines(found: Audit) -> Iterator[str]:
    """Yield how well the border predicts the class, and a warning if that is suspicious."""
    border = found.border
    if border is None:
        return
    start = "Warning: the" if border.is_suspicious else "The"
    yield (
        f"{start} border alone (the outermost 6 % of what the model sees) predicts "
        f"{border.accuracy:.1%} of the classes correctly, the whole image "
        f"{border.whole_accuracy:.1%}, chance {border.chance:.1%} (means over the classes; random "
        f"forest, {found.folds} folds, {pluralize(border.images, 'image')})."
    )
    if border.is_suspicious:
        yield (
            "Either backgrounds differ between the classes, and a model may learn them instead, or "
            "the objects reach the border. Compare the backgrounds of a few images of each class."
        )


def by_kind(found: Audit) -> Iterator[tuple[ProblemKind, Sequence[Problem]]]:
    """Yield each kind that was found, with its problems."""
    for kind in PROBLEM_KINDS:
        problems = [problem for problem in found.problems if problem.kind == kind.name]
        if problems:
            yield kind, problems


def kinds_table(found: Audit) -> Table:
    """Return a table of the kinds that were found, and of the proposed actions."""
    rows = [
        (kind.title, len(problems), _actions(problems), kind.note)
        for kind, problems in by_kind(found)
    ]
    return Table(("problem", "found", "proposed", "how it is found"), rows, is_wrapped=True)


def _actions(problems: Sequence[Problem]) -> str:
    counts = Counter(problem.action for problem in problems)
    return ", ".join(f"{action} {count:,}" for action, count in counts.most_common())


def similar_table(found: Audit) -> Table:
    """Return a table of the classes that are confused both ways."""
    rows = [
        (one.first, one.second, f"{one.first_as_second:.0%}", f"{one.second_as_first:.0%}")
        for one in found.similar_classes
    ]
    columns = ("class", "other class", "looks like the other", "the other looks like it")
    return Table(columns, rows, title="Classes that are hard to tell apart")


def classes_table(found: Audit) -> Table:
    """Return a table of the classes, those with the most likely wrong labels first."""
    order = sorted(found.classes, key=lambda one: -one.likely_wrong / max(one.images, 1))
    rows = [
        (
            one.name,
            one.images,
            one.unreadable,
            one.likely_wrong,
            None if one.accuracy is None else f"{one.accuracy:.1%}",
        )
        for one in order
    ]
    columns = ("class", "images", "unreadable", "likely wrong labels", "recognised")
    return Table(columns, rows, title="Classes")


def problems_table(kind: ProblemKind, problems: Sequence[Problem]) -> Table:
    """Return a table of problems of one kind."""
    rows = [
        (Path(one.path), one.label, one.action, one.new_label or one.other or "", one.reason)
        for one in problems
    ]
    columns = ("image", "label", "action", "label or file to compare", "reason")
    return Table(columns, rows, title=kind.title)


def settings(found: Audit) -> Iterator[tuple[str, str]]:
    """Yield names and values: what was audited, and how."""
    yield "dataset", f"{found.root} ({found.layout})"
    yield "model", found.model
    yield "folds", f"{found.folds}"
