"""Show rows as a table or as lines."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from effnet_cli.output.tables import Bar, Block, Line, Styled, Table
from effnet_cli.output.text import printable
from effnet_cli.predict.records import NO_LABEL, ImageResult, ResultRow

MAX_TABLE_IMAGES = 12  # shown as one table; more images are streamed, one line each
LABEL_WIDTH = 30


def blocks(rows: Iterable[ResultRow]) -> Iterator[Block]:
    """Yield one table for a few images, else one line per image as soon as its result is known."""
    results = (row.result for row in rows)
    first = list(itertools.islice(results, MAX_TABLE_IMAGES + 1))
    if len(first) > MAX_TABLE_IMAGES:
        yield from map(_line, itertools.chain(first, results))
    elif first:
        yield _table(first)


def preview_blocks(rows: Iterable[ResultRow]) -> Iterator[Block]:
    """Yield a table for each image, with its crop on the left."""
    for row in rows:
        yield replace(_table([row.result]), image=row.result.crop)


def _table(results: Sequence[ImageResult]) -> Table:
    cells = [line for result in results for line in (*_cells(result), ())]
    return Table(("Image", "Class", "", "Probability"), cells, is_wrapped=True)


def _cells(result: ImageResult) -> Iterator[tuple[object, ...]]:
    name = Styled(result.path, "bold")
    if result.error is not None:
        yield name, Styled(f"{result.error.kind}: {result.error.message}", "red")
    if result.is_multi_label and result.error is None and not result.predictions:
        yield name, Styled(NO_LABEL, "dim"), "", ""
    for one in result.predictions:
        is_best = one.rank == 1
        yield (
            name if is_best else "",
            Styled(_label(result) if is_best else one.label, "" if is_best else "dim"),
            Bar(one.probability, "green" if is_best else "dim"),
            f"{one.probability:.1%}",
        )


def _label(result: ImageResult) -> str:
    """Return the best class, and what an operating point decided."""
    label, decision = result.best_label, result.operating_point
    if decision is None:
        return label
    return f"{label} ({'positive' if decision.is_positive else 'negative'})"


def _line(result: ImageResult) -> Line:
    """Return one line; fixed-width columns come first, so that streamed lines are aligned."""
    name = Styled(result.path, "bold")
    if result.error is not None:
        message = f"{result.error.kind}: {result.error.message}"
        return Line((Styled("  error  ", "red"), name, "  ", Styled(message, "red")))
    text, probability = _label(result), ""
    if result.predictions:
        probability = f"{result.predictions[0].probability:7.1%}"
    if result.is_multi_label and result.predictions:
        text = ", ".join(one.label for one in result.predictions)
    label = f"  {printable(text):<{LABEL_WIDTH}}  "
    return Line((Styled(f"{probability:7}", "green"), label, name))
