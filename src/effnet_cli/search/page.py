"""The HTML page of the matches of queries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from effnet_cli.images.thumbnails import make_thumbnail
from effnet_cli.output.charts import roc_chart
from effnet_cli.output.html import PAGES, base64_text, grid
from effnet_cli.search.calibrate import FittedPairs
from effnet_cli.search.records import Match, QueryResult
from effnet_cli.search.store import Store
from effnet_cli.search.table import promise_line, rates_table

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


def verification_page(found: FittedPairs) -> str:
    """Return the HTML page of a calibration, with its ROC curve."""
    v = found.verification
    return PAGES.get_template("pairs.html").render(
        title="Same or different",
        summary=[
            f"{v.same:,} same pairs, {v.different:,} different ones: equal error rate {v.eer:.2%}, "
            f"area under the ROC curve {v.auc:.4f}.",
            promise_line(found.calibration),
        ],
        rates=rates_table(v),
        chart=roc_chart(v.roc, [(rate.far, rate.tar) for rate in v.rates]),
        grid=grid,
    )


def _draw(opened: Store, results: Sequence[QueryResult]) -> Iterator[QueryFigures]:
    for result in results:
        figures = [
            MatchFigure(match, base64_text(opened.find_thumbnail(match.path)))
            for match in result.matches[:MAX_SHOWN]
        ]
        image = None if result.error else make_thumbnail(result.query, QUERY_PX)
        yield QueryFigures(result, base64_text(image), figures)
