"""The HTML page of the matches of queries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from effnet_cli.images.thumbnails import make_thumbnail
from effnet_cli.output.html import PAGES, base64_text
from effnet_cli.search.records import Match, QueryResult
from effnet_cli.search.store import Store

QUERY_PX, MAX_SHOWN = 160, 60  # matches of a query


@dataclass(frozen=True, slots=True)
class MatchFigure:
    """A match with its thumbnail in base64."""

    match: Match
    image: Markup


@dataclass(frozen=True, slots=True)
class QueryFigures:
    """A query with its thumbnail in base64, which is empty for words, and the matches."""

    result: QueryResult
    image: Markup
    figures: Sequence[MatchFigure]


def matches_page(opened: Store, results: Sequence[QueryResult]) -> str:
    """Return the HTML page of the matches of queries."""
    return PAGES.get_template("matches.html").render(
        title="Similar images",
        model=opened.source.model,
        count=opened.count()[0],
        queries=list(_draw(opened, results)),
    )


def _draw(opened: Store, results: Sequence[QueryResult]) -> Iterator[QueryFigures]:
    for result in results:
        figures = [
            MatchFigure(match, base64_text(opened.find_thumbnail(match.path)))
            for match in result.matches[:MAX_SHOWN]
        ]
        image = None if result.error else make_thumbnail(result.query, QUERY_PX)
        yield QueryFigures(result, base64_text(image), figures)
