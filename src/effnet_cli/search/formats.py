"""Convert records of a search to JSON objects and CSV lines."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from effnet_cli.output.text import csv_line
from effnet_cli.search.calibrate import FittedPairs
from effnet_cli.search.cluster import Cluster
from effnet_cli.search.records import IndexedImage, IndexInfo, QueryResult
from effnet_cli.search.verify import PairDecision

SIMILARITY_DIGITS = 6  # similarities differ by 1e-6 between engines
INDEX_COLUMNS = ("path", "change", "error_kind", "error")
MATCH_COLUMNS = ("query", "status", "rank", "path", "similarity", "label", "error_kind", "error")


def change_row(image: IndexedImage) -> dict[str, Any]:
    """Return one changed image as a JSON object."""
    row: dict[str, Any] = {"path": image.path, "change": image.change}
    return row if image.error is None else row | {"error": asdict(image.error)}


def change_lines(images: Iterable[IndexedImage]) -> Iterator[str]:
    """Yield CSV lines: a header, then one line per image."""
    yield csv_line(INDEX_COLUMNS)
    for image in images:
        error = image.error
        cells = (error.kind, error.message) if error else ("", "")
        yield csv_line((image.path, image.change, *cells))


def list_infos(infos: Iterable[IndexInfo]) -> list[dict[str, Any]]:
    """Return indexes as JSON objects."""
    return [asdict(info) for info in infos]


def list_clusters(clusters: Iterable[Cluster]) -> list[dict[str, Any]]:
    """Return clusters as JSON objects."""
    return [asdict(one) for one in clusters]


def cluster_lines(clusters: Iterable[Cluster]) -> Iterator[str]:
    """Yield CSV lines: a header, then one line per image."""
    yield csv_line(("path", "cluster", "label"))
    for one in clusters:
        for path in one.paths:
            yield csv_line((path, one.number, one.label))


def decision_dict(decision: PairDecision) -> dict[str, Any]:
    """Return the decision about two images as a JSON object."""
    content: dict[str, Any] = {
        "image1": decision.first,
        "image2": decision.second,
        "similarity": round(decision.similarity, SIMILARITY_DIGITS),
    }
    found = decision.calibration
    if found is None:
        return content | {"same": None}
    return content | {
        "same": decision.is_same,
        "threshold": round(found.threshold, SIMILARITY_DIGITS),
        "false_accept_rate": found.far,
        "promise": found.promise,
        "true_accept_rate": found.tar,
    }


def verification_dict(found: FittedPairs) -> dict[str, Any]:
    """Return the figures of a calibration as a JSON object."""
    calibration = asdict(found.calibration)
    is_centered = bool(calibration.pop("mean"))
    failed = [{"path": one.path, "error": asdict(one.error)} for one in found.failed if one.error]
    return {
        **asdict(found.verification),
        "calibration": calibration | {"centered": is_centered},
        "failed": failed,
    }


def verification_lines(found: FittedPairs) -> Iterator[str]:
    """Yield CSV lines: a header, then one line per false accept rate."""
    yield csv_line(("far", "threshold", "false_matches", "tar", "tar_low", "tar_high"))
    for rate in found.verification.rates:
        cells = (rate.far, rate.threshold, rate.false_matches, rate.tar, *rate.tar_interval)
        yield csv_line(cells)


def query_row(result: QueryResult) -> dict[str, Any]:
    """Return the matches of one query as a JSON object."""
    row: dict[str, Any] = {"query": result.query, "status": result.status}
    if result.error is not None:
        return row | {"error": asdict(result.error)}
    matches = [asdict(one) for one in result.matches]
    for match in matches:
        match["similarity"] = round(match["similarity"], SIMILARITY_DIGITS)
    return row | {"matches": matches}


def query_lines(results: Iterable[QueryResult]) -> Iterator[str]:
    """Yield CSV lines: a header, then one line per match or error."""
    yield csv_line(MATCH_COLUMNS)
    for result in results:
        row = query_row(result)
        start = (result.query, result.status)
        if result.error is not None:
            yield csv_line((*start, "", "", "", "", result.error.kind, result.error.message))
        for match in row.get("matches", ()):
            yield csv_line((*start, *match.values(), "", ""))
