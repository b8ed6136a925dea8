"""Group the images of an index by what they look like."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from effnet_cli.embed.records import Vectors
from effnet_cli.search.condition import Rows
from effnet_cli.search.store import Store
from effnet_cli.system.errors import UsageError

MAX_AUTO_CLUSTERS = 200
REDUCED_DIM = 64  # numbers that are clustered: those with the largest variance
FITTED_ROWS = 20_000  # at most, for the principal components
TYPICAL_IMAGES = 12  # of a cluster, that are shown


@dataclass(frozen=True, slots=True)
class Cluster:
    """Images that look alike. `paths` are all of them, the most typical first; `label` is the most
    frequent class, of a share `label_share` of them.
    """

    number: int
    paths: tuple[str, ...]
    label: str
    label_share: float


def live_rows(opened: Store) -> Rows:
    """Return the rows of an index that are no holes."""
    rows: Rows = np.setdiff1d(np.arange(opened.num_rows), opened.holes())
    return rows


def reduce_vectors(vectors: Vectors, rows: Rows, dim: int) -> Vectors:
    """Return the principal components of the vectors at `rows` [N], float32 [N,dim]."""
    library: Any = import_module("sklearn.decomposition")  # importing takes a second
    chosen = rows[:: math.ceil(len(rows) / FITTED_ROWS)]
    size = min(dim, len(chosen), vectors.shape[1])
    fitted = library.PCA(size, svd_solver="full").fit(vectors[chosen])
    parts = [rows[i : i + FITTED_ROWS] for i in range(0, len(rows), FITTED_ROWS)]
    reduced: Vectors = np.concatenate([fitted.transform(vectors[part]) for part in parts])
    return reduced.astype(np.float32)


def choose_count(images: int) -> int:
    """Return a number of clusters: the square root of half the images, up to 200."""
    return max(1, min(MAX_AUTO_CLUSTERS, round(math.sqrt(images / 2))))


def find_clusters(opened: Store, clusters: int | None, seed: int) -> list[Cluster]:
    """Group the images of an index with k-means, the largest cluster first.

    Raises:
        UsageError: there are fewer different images than clusters.
    """
    rows = live_rows(opened)
    count = clusters or choose_count(len(rows))
    if count > len(rows):
        message = f"--clusters {count} is more than the {len(rows):,} different images."
        raise UsageError(message, "Use a smaller number.")
    points = reduce_vectors(opened.vectors(), rows, REDUCED_DIM)
    library: Any = import_module("sklearn.cluster")
    fitted = library.MiniBatchKMeans(count, random_state=seed, n_init=3, batch_size=2048)
    fitted.fit(points)
    distances = np.linalg.norm(points - fitted.cluster_centers_[fitted.labels_], axis=1)
    groups = [_order(rows, distances, fitted.labels_ == number) for number in range(count)]
    filled = sorted(filter(None, groups), key=lambda group: (-len(group), group[0]))
    return [_describe(opened, number, group) for number, group in enumerate(filled, start=1)]


def _order(
    rows: Rows, distances: npt.NDArray[np.float32], is_inside: npt.NDArray[np.bool_]
) -> list[int]:
    """Return the rows of a cluster, those next to its centre first."""
    own = np.flatnonzero(is_inside)
    ordered: list[int] = rows[own[np.lexsort((own, distances[own]))]].tolist()
    return ordered


def _describe(opened: Store, number: int, rows: Sequence[int]) -> Cluster:
    labels = Counter(opened.label(row) for row in rows)
    label, frequency = labels.most_common(1)[0]
    paths = tuple(path for row in rows for path in opened.paths(row))
    return Cluster(number, paths, label, label_share=frequency / len(rows))
