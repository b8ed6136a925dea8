"""Find labels that are probably wrong, from predictions that have not been trained on them."""

import importlib.util
import warnings
from importlib import import_module
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

LABEL_ERROR_LIBRARY = "cleanlab"
INSTALL_CLEANLAB = "pip install 'effnet-cli[labels]'"
# How cleanlab chooses the images: those that its default removes, or as many as it expects, those
# whose label has the lowest probability.
ErrorFilter = Literal["prune_by_noise_rate", "low_self_confidence"]


def has_cleanlab() -> bool:
    """Return whether cleanlab is installed."""
    return importlib.util.find_spec(LABEL_ERROR_LIBRARY) is not None


def find_label_errors(
    labels: npt.NDArray[np.integer[Any]],
    probabilities: npt.NDArray[np.float64],
    filter_by: ErrorFilter = "prune_by_noise_rate",
) -> npt.NDArray[np.intp] | None:
    """Return the images whose label is likely wrong, most likely first, or `None` without cleanlab
    (confident learning: Northcutt et al. 2021, arXiv 1911.00068).

    `labels` [N] are indexes of the columns of `probabilities` [N,C]; each column has an image.
    """
    if not has_cleanlab():
        return None
    if probabilities.shape[1] < 2:
        return np.empty(0, np.intp)
    library: Any = import_module(f"{LABEL_ERROR_LIBRARY}.filter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes with few images
        found: npt.NDArray[np.intp] = library.find_label_issues(
            labels,
            probabilities,
            return_indices_ranked_by="self_confidence",
            filter_by=filter_by,
            n_jobs=1,
        )
    return found
