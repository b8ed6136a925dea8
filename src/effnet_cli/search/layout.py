"""Place the images of an index on a map, those that look alike next to each other."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from effnet_cli.embed.records import Vectors
from effnet_cli.search.cluster import live_rows, reduce_vectors
from effnet_cli.search.condition import Rows
from effnet_cli.search.store import Store
from effnet_cli.system.errors import UsageError

MAX_PLACED = 5000  # images: t-SNE of so many takes a minute, and their thumbnails 10 MB
MIN_PLACED = 5
COMPONENTS = 50  # that t-SNE starts from, as its authors advise
PERPLEXITY = 30.0


@dataclass(frozen=True, slots=True)
class MapLayout:
    """Places of images: `rows` [N] of the index at `places` [N,2] in 0..1, of `total` images."""

    rows: Rows
    places: Vectors
    total: int


def lay_out(opened: Store, seed: int) -> MapLayout:
    """Place the images of an index by t-SNE (van der Maaten and Hinton 2008); a random part of
    them if there are many.

    Raises:
        UsageError: there are too few images.
    """
    rows = live_rows(opened)
    if len(rows) < MIN_PLACED:
        message = f"The index has {len(rows)} different images, too few for a map."
        raise UsageError(message, f"Index at least {MIN_PLACED}.")
    total = len(rows)
    if total > MAX_PLACED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_PLACED, replace=False))
    points = reduce_vectors(opened.vectors(), rows, COMPONENTS)
    library: Any = import_module("sklearn.manifold")
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    placed = library.TSNE(
        2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=-1
    ).fit_transform(points)
    low, high = placed.min(axis=0), placed.max(axis=0)
    places: Vectors = ((placed - low) / np.maximum(high - low, 1e-9)).astype(np.float32)
    return MapLayout(rows, places, total)
