"""How far values are from most others, whatever the others are."""

import numpy as np
import numpy.typing as npt

# Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers: 0.6745 makes the median absolute
# deviation of a normal distribution 1, and scores above 3.5 are outliers.
MAD_SCALE = 0.6745
MAX_SCORE = 3.5

Scores = npt.NDArray[np.float64]


def modified_z_scores(values: npt.NDArray[np.floating], least_mad: float) -> Scores:
    """Return the distance of each of `values` [N] from their median, in units of their median
    absolute deviation; `least_mad` is its lowest value, so that equal images are no norm.
    """
    if not len(values):
        return np.empty(0)
    deviations = values.astype(np.float64) - np.median(values)
    mad = max(float(np.median(np.abs(deviations))), least_mad)
    scores: Scores = MAD_SCALE * deviations / mad
    return scores
