"""Predictions as tables and lines."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from effnet_cli.output.tables import Bar, Block, Line, Styled, Table
from effnet_cli.output.text import printable
from effnet_cli.predict.records import ImageResult

MAX_TABLE_IMAGES = 12  # shown as one table; more images are streamed, one line each
LABEL_WIDTH = 30


def blocks(results: Iterable[ImageResult]) -> Iterator[Block]:
    """A table for a few images; for more, one line each as soon as it is known."""
    results = iter(results)
    first = list(itertools.islice(results, MAX_TABLE_IMAGES + 1))
    if len(first) > MAX_TABLE_IMAGES:
        yield from map(_line, itertools.chain(first, results))
    elif first:
        yield _table(first)


def preview_blocks(results: Iterable[ImageResult]) -> Iterator[Block]:
    """A table for each image, with what the model saw of it to the left."""
    for result in results:
        yield replace(_table([result]), image=result.crop)


def _table(results: Sequence[ImageResult]) -> Table:
    rows = [row for result in results for row in (*_rows(result), ())]
    return Table(("Image", "Class", "", "Probability"), rows, is_wrapped=True)


def _rows(result: ImageResult) -> Iterator[tuple[object, ...]]:
    name = Styled(result.path, "bold")
    if result.error is not None:
        yield name, Styled(f"{result.error.kind}: {result.error.message}", "red")
    for one in result.predictions:
        is_best = one.rank == 1
        yield (
            name if is_best else "",
            Styled(one.label, "" if is_best else "dim"),
            Bar(one.probability, "green" if is_best else "dim"),
            f"{one.probability:.1%}",
        )


def _line(result: ImageResult) -> Line:
    """The columns of fixed width come first, so that lines are aligned while they stream."""
    name = Styled(result.path, "bold")
    if result.error is not None:
        message = f"{result.error.kind}: {result.error.message}"
        return Line((Styled("  error  ", "red"), name, "  ", Styled(message, "red")))
    best = result.predictions[0]
    label = printable(best.label)
    return Line((Styled(f"{best.probability:7.1%}", "green"), f"  {label:<{LABEL_WIDTH}}  ", name))
