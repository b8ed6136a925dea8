"""Images that differ from the others: by their features, exposure, sharpness, size or shape."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.audit.copies import locate
from effnet_cli.audit.measure import Looks
from effnet_cli.audit.records import Problem, ProblemName
from effnet_cli.audit.robust import MAX_SCORE, Scores, modified_z_scores
from effnet_cli.datasets.checks import CheckedFiles
from effnet_cli.system.reporter import Reporter

Values = npt.NDArray[np.floating]

MIN_COMPARED_IMAGES = 20  # with fewer, there is no norm to differ from
# A few foreign images are often alike, so a nearer neighbour would be one of them. In five datasets
# with a few images of others among them, this distance ranked foreign images best.
NEIGHBOUR = 10
ROWS_AT_ONCE = 1024  # bounds the memory
MIN_DISTANCE_MAD = 0.01  # of cosine distances


@dataclass(frozen=True, slots=True)
class Property:
    """A property of images, and from where on it is a problem.

    Its value, on a scale of doublings, is a problem if it is far from the median: below for `sign`
    -1, above for 1, either for 0. Beyond `limit` (in the units of `read`), values are acceptable in
    any dataset. `text` formats the value.
    """

    kind: ProblemName
    read: Callable[[CheckedFiles, Looks], Values]
    sign: int
    limit: float
    text: str


# Values are positive, so that a halving is as far as a doubling. The limits are meant to be
# generous: an image beyond one can be recognised.
PROPERTIES = (
    Property(
        "dark",
        lambda _, looks: looks.brightness + 1,
        sign=-1,
        limit=60,
        text="mean gray value {:.0f}",
    ),
    Property(
        "bright",
        lambda _, looks: 256 - looks.brightness,
        sign=-1,
        limit=40,
        text="mean gray value {:.0f} below white",
    ),
    Property(
        "flat", lambda _, looks: looks.contrast + 1, sign=-1, limit=20, text="contrast {:.0f}"
    ),
    Property(
        "blurred",
        lambda _, looks: looks.sharpness + 1e-6,
        sign=-1,
        limit=np.inf,
        text="sharpness {:.2g}",
    ),
    Property(
        "small",
        lambda data, looks: data.inspection.shorter_px[looks.files].astype(np.float32),
        sign=-1,
        limit=224,
        text="shorter side {:.0f} px",
    ),
    Property(
        "odd_shape",
        lambda data, looks: data.inspection.aspect[looks.files],
        sign=0,
        limit=np.inf,
        text="width / height {:.2f}",
    ),
)
MIN_DOUBLINGS_MAD = 0.4  # a factor of 4.2 from the median is odd in the most uniform dataset


def odd_images(data: CheckedFiles, looks: Looks) -> Iterator[Problem]:
    """Yield the images with a property that is far from that of most others."""
    if len(looks.files) < MIN_COMPARED_IMAGES:
        return
    for one in PROPERTIES:
        values = one.read(data, looks)
        scores = modified_z_scores(np.log2(values), MIN_DOUBLINGS_MAD)
        scores = scores * one.sign if one.sign else np.abs(scores)
        rows = np.flatnonzero((scores > MAX_SCORE) & (values < one.limit))
        for row in rows[np.argsort(-scores[rows], kind="stable")].tolist():
            yield Problem(
                one.kind,
                0,
                **locate(data, int(looks.files[row])),
                action="check",
                score=float(scores[row]),
                reason=one.text.format(values[row]),
            )


def outliers(data: CheckedFiles, looks: Looks, reporter: Reporter) -> Iterator[Problem]:
    """Yield the images whose features are far from those of all others, farthest first."""
    if len(looks.files) < MIN_COMPARED_IMAGES:
        return
    groups = data.group_near_duplicates()[data.contents[looks.files]]
    distances = _neighbour_distances(looks.features, groups, reporter)
    labels = data.listing.labels[looks.files]
    scores = modified_z_scores(distances, MIN_DISTANCE_MAD)
    for label in np.unique(labels):  # a varied class has distant images of its own
        members = labels == label
        if members.sum() >= MIN_COMPARED_IMAGES:
            scores[members] = modified_z_scores(distances[members], MIN_DISTANCE_MAD)
    rows = np.flatnonzero(scores > MAX_SCORE)
    for row in rows[np.argsort(-scores[rows], kind="stable")].tolist():
        yield Problem(
            "outlier",
            0,
            **locate(data, int(looks.files[row])),
            action="check",
            score=float(scores[row]),
            reason=f"cosine distance {distances[row]:.2f}, median {np.median(distances):.2f}",
        )


def _neighbour_distances(
    features: npt.NDArray[np.float32], groups: npt.NDArray[np.intp], reporter: Reporter
) -> Scores:
    """Return the cosine distance of each image [N] to its tenth neighbour in other groups."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    count = len(unit)
    place = count - min(NEIGHBOUR, count - 1)
    distances = np.empty(count)
    for start in range(0, count, ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        similarities = unit[part] @ unit.T
        similarities[groups[part, None] == groups] = -1
        distances[part] = 1 - np.partition(similarities, place, axis=1)[:, place]
        reporter.progress("Comparing images", min(start + ROWS_AT_ONCE, count), count)
    return distances
