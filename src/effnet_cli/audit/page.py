"""The HTML page of an audit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from effnet_cli.audit import table
from effnet_cli.audit.records import Audit, Problem, ProblemKind
from effnet_cli.images.thumbnails import make_thumbnail
from effnet_cli.output.html import MAX_ROWS, PAGES, base64_text, grid
from effnet_cli.system.parallel import map_ordered, usable_cores
from effnet_cli.system.reporter import SILENT, Reporter
from effnet_cli.system.text import shorten

# With the largest number of thumbnails, 840, a page of photos has 4 MB.
MAX_FIGURES = 40  # of each of the 15 kinds of problems; 6 kinds show two images
SIDE_PX = 128  # longer side of a thumbnail
MAX_TEXT_CHARS = 300  # so that no name fills the page


@dataclass(frozen=True, slots=True)
class Figure:
    """A problem with its thumbnails in base64: of the file, and of the one to compare it with.
    They are empty for files that cannot be opened.
    """

    problem: Problem
    images: tuple[Markup, ...]


@dataclass(frozen=True, slots=True)
class ProblemGallery:
    """The first problems of a kind. `more` is the number of those that are not shown."""

    kind: ProblemKind
    count: int
    more: int
    figures: Sequence[Figure]


def audit_page(found: Audit, reporter: Reporter = SILENT) -> str:
    """Return the HTML page of an audit."""
    classes = table.classes_table(found)
    return PAGES.get_template("audit.html").render(
        title="Dataset audit",
        summary=[*table.headline(found), *table.border_lines(found)],
        findings=found.findings,
        kinds=table.kinds_table(found),
        similar=table.similar_table(found),
        classes=replace(classes, rows=classes.rows[:MAX_ROWS]),
        galleries=list(_galleries(found, reporter)),
        notes=found.notes,
        choices=list(table.settings(found)),
        shorten=lambda text: shorten(text, MAX_TEXT_CHARS),
        grid=grid,
    )


def _galleries(found: Audit, reporter: Reporter) -> Iterator[ProblemGallery]:
    kinds = list(table.by_kind(found))
    shown = [problem for _, problems in kinds for problem in problems[:MAX_FIGURES]]
    figures = iter(list(_draw(shown, reporter)))
    for kind, problems in kinds:
        first = [next(figures) for _ in problems[:MAX_FIGURES]]
        yield ProblemGallery(kind, len(problems), more=len(problems) - len(first), figures=first)


def _draw(problems: Sequence[Problem], reporter: Reporter) -> Iterator[Figure]:
    """Yield the figures of problems, in order."""

    def draw(problem: Problem) -> Figure:
        paths = (problem.path,) if problem.other is None else (problem.path, problem.other)
        return Figure(problem, tuple(base64_text(make_thumbnail(p, SIDE_PX)) for p in paths))

    workers = usable_cores()
    drawn = map_ordered(draw, iter(problems), workers=workers, ahead=2 * workers)
    for number, figure in enumerate(drawn, start=1):
        reporter.progress("Thumbnails", number, len(problems))
        yield figure
