"""Show the records of a search as tables and lines."""

import math
from collections.abc import Iterable, Iterator, Mapping

from effnet_cli.output.tables import Bar, Block, Line, Styled, Table
from effnet_cli.search.calibrate import FittedPairs
from effnet_cli.search.cluster import Cluster
from effnet_cli.search.records import Change, IndexedImage, IndexInfo, IndexSummary, QueryResult
from effnet_cli.search.verification import (
    MIN_EXPECTED_MATCHES,
    REPORTED_FARS,
    PairCalibration,
    Verification,
)
from effnet_cli.search.verify import PairDecision
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


def clusters_table(clusters: Iterable[Cluster]) -> Table:
    """Return a table of clusters, with the most typical image of each."""
    rows = [
        (one.number, len(one.paths), f"{one.label_share:.0%} {one.label}", one.paths[0])
        for one in clusters
    ]
    return Table(("Group", "Images", "Most frequent class", "Most typical image"), rows)


def decision_lines(decision: PairDecision) -> Iterator[str]:
    """Yield what is said of two images."""
    found = decision.calibration
    if found is None:
        yield f"similarity {decision.similarity:.3f}"
        return
    answer = "the same" if decision.is_same else "different"
    sign = ">=" if decision.is_same else "<"
    yield f"{answer}: similarity {decision.similarity:.3f} {sign} {found.threshold:.3f}"


def promise_line(found: PairCalibration) -> str:
    """Return what a threshold promises, with the numbers behind it."""
    return (
        f"At the threshold {found.threshold:.3f}, {found.false_matches:,} of {found.different:,} "
        f"different pairs were called the same (at most {found.promise:.2%} of others), and "
        f"{found.tar:.1%} of {found.same:,} same pairs were found."
    )


def verification_blocks(found: FittedPairs) -> Iterator[Block]:
    """Yield the figures of a calibration."""
    v = found.verification
    yield Table(
        ("Same pairs", "Different pairs", "EER", "AUC"),
        [(v.same, v.different, f"{v.eer:.2%}", f"{v.auc:.4f}")],
    )
    yield rates_table(v)


def rates_table(found: Verification) -> Table:
    """Return what the thresholds for the usual false accept rates do."""
    cells: list[tuple[object, ...]] = []
    for far in REPORTED_FARS:
        rate = next((one for one in found.rates if one.far == far), None)
        if rate is None:
            needed = math.ceil(MIN_EXPECTED_MATCHES / far)
            cells.append((f"{far:g}", None, f"needs {needed:,} different pairs", ""))
        else:
            low, high = rate.tar_interval
            interval = f"{low:.1%} to {high:.1%}"
            cells.append((f"{far:g}", f"{rate.threshold:.3f}", f"{rate.tar:.1%}", interval))
    return Table(("False accept rate", "Threshold", "True accept rate", "95 % interval"), cells)


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
