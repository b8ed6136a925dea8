"""The HTML page of the matches of queries."""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from effnet_cli.images.thumbnails import make_thumbnail, shrink_thumbnail
from effnet_cli.output.charts import roc_chart
from effnet_cli.output.html import PAGES, base64_text, grid
from effnet_cli.search.calibrate import FittedPairs
from effnet_cli.search.cluster import TYPICAL_IMAGES, Cluster
from effnet_cli.search.layout import MapLayout
from effnet_cli.search.records import Match, QueryResult
from effnet_cli.search.store import Store
from effnet_cli.search.table import promise_line, rates_table

QUERY_PX, MAX_SHOWN = 160, 60  # matches of a query
MAX_CLUSTERS = 200  # 2 kB for each of their images
MAP_THUMBNAIL_PX = 48  # longer side: about 1.2 kB


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


def clusters_page(opened: Store, clusters: Sequence[Cluster]) -> str:
    """Return the HTML page of clusters, each with its most typical images."""
    shown = clusters[:MAX_CLUSTERS]
    images = [
        [base64_text(opened.find_thumbnail(path)) for path in one.paths[:TYPICAL_IMAGES]]
        for one in shown
    ]
    return PAGES.get_template("clusters.html").render(
        title="Images that look alike",
        count=sum(len(one.paths) for one in clusters),
        model=opened.source.model,
        clusters=list(zip(shown, images, strict=True)),
        more=len(clusters) - len(shown),
    )


def map_page(opened: Store, layout: MapLayout) -> str:
    """Return the HTML page of a map, which needs no network: its only script is its own."""
    points = [_describe_point(opened, int(row)) for row in layout.rows]
    places = np.round(layout.places, 4).tolist()
    content = [[*place, *point] for place, point in zip(places, points, strict=True)]
    script = PAGES.get_template("map.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return PAGES.get_template("map.html").render(
        title="Map of images",
        count=layout.total,
        shown=len(layout.rows),
        model=opened.source.model,
        script=Markup(script),  # noqa: S704 (a template of ours, without values)
        digest=digest,
        points=_json_for_html(content),
    )


def _describe_point(opened: Store, row: int) -> tuple[str, str, str]:
    """Return path, class and thumbnail of a row."""
    thumbnail = shrink_thumbnail(opened.thumbnail(row), MAP_THUMBNAIL_PX)
    return opened.paths(row)[0], opened.label(row), base64.b64encode(thumbnail).decode()


def _json_for_html(value: object) -> Markup:
    """Return JSON that cannot end the element that it is in."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))  # noqa: S704


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
