"""Show the records of a search as tables and lines."""

from collections.abc import Iterable, Iterator, Mapping

from effnet_cli.output.tables import Bar, Block, Line, Styled, Table
from effnet_cli.search.records import Change, IndexedImage, IndexInfo, IndexSummary, QueryResult
from effnet_cli.system.text import pluralize

CHANGE_COLOURS: Mapping[Change, str] = {
    "added": "green",
    "changed": "green",
    "copied": "dim",
    "removed": "yellow",
    "failed": "red",
}


def change_blocks(images: Iterable[IndexedImage]) -> Iterator[Block]:
    """Yield a line for each changed image, as soon as it is known."""
    for image in images:
        message = f"  {image.error.kind}: {image.error.message}" if image.error else ""
        colour = CHANGE_COLOURS[image.change]
        yield Line((Styled(f"{image.change:8}", colour), image.path, Styled(message, "red")))


def describe_update(summary: IndexSummary) -> str:
    """Return one line: what the index has, and what changed."""
    parts = [f"{count:,} {change}" for change, count in summary.changes.items()]
    parts.append(f"{summary.unchanged:,} unchanged")
    images = pluralize(summary.images, "image")
    unread = f", and {summary.failed:,} that cannot be read" if summary.failed else ""
    return f"Index {summary.name!r} has {images}{unread}: {', '.join(parts)}."


def indexes_table(infos: Iterable[IndexInfo]) -> Table:
    """Return a table of indexes."""
    rows = [
        (info.name, info.images, info.failed, info.model, f"{info.size_bytes / 1e6:.1f} MB")
        for info in infos
    ]
    return Table(("Index", "Images", "Cannot be read", "Model", "Size"), rows)


def match_blocks(results: Iterable[QueryResult]) -> Iterator[Block]:
    """Yield a table of the matches of each query."""
    for result in results:
        name = Styled(result.query, "bold")
        if result.error is not None:
            message = f"{result.error.kind}: {result.error.message}"
            yield Line((name, "  ", Styled(message, "red")))
            continue
        cells = [
            (
                match.rank,
                Bar(max(match.similarity, 0.0), "green"),
                f"{match.similarity:.3f}",
                match.path,
                Styled(match.label, "dim"),
            )
            for match in result.matches
        ]
        yield Table(("", "", "Similarity", "Image", "Class"), cells, title=result.query)
