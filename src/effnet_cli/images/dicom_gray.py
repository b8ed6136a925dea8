"""Make the grey values of a DICOM image visible, in 8 bits.

Source of the formulas: DICOM PS3.3, C.11.1 (modality) and C.11.2 (values of interest, "VOI").
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from effnet_cli.images import rgb
from effnet_cli.options import MIN_WINDOW_WIDTH
from effnet_cli.system.errors import ImageError

PADDING_TAGS = ("PixelPaddingValue", "PixelPaddingRangeLimit")
RESCALE_TAGS = ("RescaleSlope", "RescaleIntercept")
WINDOW_TAGS = ("WindowCenter", "WindowWidth")
TABLE_TAGS = ("LUTDescriptor", "LUTData")
GRAY_TAGS = (
    *(*PADDING_TAGS, *RESCALE_TAGS, "ModalityLUTSequence"),
    *(*WINDOW_TAGS, "VOILUTFunction", "VOILUTSequence", *TABLE_TAGS),
)
INVERTED_GRAY = "MONOCHROME1"  # the lowest value is white
INTERPRETATIONS = (INVERTED_GRAY, "MONOCHROME2")
# The smallest width of a window, by the function that it is for
SMALLEST_WIDTHS = {"LINEAR": MIN_WINDOW_WIDTH, "LINEAR_EXACT": 1e-30, "SIGMOID": 1e-30}
MAX_EXPONENT = 700.0  # of exp() in float64

Window = tuple[float, float]  # centre and width
Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Shade = Callable[[Array], Floats]  # modality values to 0 (black) .. 1 (white)


def shade(stored: Array, header: Dataset, window: Window | None) -> npt.NDArray[np.uint8]:
    """Convert stored pixels [H,W] of any type to 8 bits, with values of `window`, else of the file.

    Padding is black.

    Raises:
        ImageError: the window of the file is invalid.
    """
    for name in RESCALE_TAGS:
        if name in header and header[name].is_empty:
            del header[name]
    to_levels = _choose_shade(stored, header, window)
    gray = np.empty(stored.shape, np.uint8)
    for rows in rgb.bands(*stored.shape):
        levels = np.nan_to_num(to_levels(apply_modality_lut(stored[rows], header)))
        gray[rows] = levels * 255 + 0.5
        if header.PhotometricInterpretation == INVERTED_GRAY:
            gray[rows] = 255 - gray[rows]
        gray[rows][_is_padding(stored[rows], header)] = 0
    return gray


def _is_padding(stored: Array, header: Dataset) -> npt.NDArray[np.bool_]:
    value, limit = (header.get(name) for name in PADDING_TAGS)
    if value is None:
        return np.zeros(stored.shape, np.bool_)
    low, high = sorted((value, value if limit is None else limit))
    is_padding: npt.NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return is_padding


def _choose_shade(stored: Array, header: Dataset, window: Window | None) -> Shade:
    """Choose what makes modality values visible: `window`, else the first table or window of the
    file, else the range of all values but padding.
    """
    is_chosen = window is not None
    tables = header.get("VOILUTSequence") or [Dataset()]
    if window is None and all(tables[0].get(name) is not None for name in TABLE_TAGS):
        return _table(header)
    if window is None and all(header.get(name) is not None for name in WINDOW_TAGS):
        window = _first(header.WindowCenter), _first(header.WindowWidth)
    if window is None:
        return _full_range(stored, header)
    center, width = window
    function = header.get("VOILUTFunction")
    if function is None or (is_chosen and function not in SMALLEST_WIDTHS):
        function = "LINEAR"
    is_valid = np.isfinite((center, width)).all() and width >= SMALLEST_WIDTHS.get(function, np.inf)
    if not is_valid:
        message = "This is a DICOM image with an invalid window."
        raise ImageError("unsupported_format", message, "Use --window CENTER,WIDTH.")
    return _window(function, center, width)


def _first(value: Any) -> float:
    return float(value if isinstance(value, float | int) else value[0])


def _window(function: str, center: float, width: float) -> Shade:
    if function == "SIGMOID":
        return lambda values: (
            1 / (1 + np.exp((-4 * (values - center) / width).clip(max=MAX_EXPONENT)))
        )
    if function == "LINEAR":  # from the centre of the first of `width` integers to that of the last
        center, width = center - 0.5, width - 1
    if width == 0:
        return lambda values: (values > center).astype(np.float64)
    return lambda values: ((values - center) / width + 0.5).clip(0, 1)


def _table(header: Dataset) -> Shade:
    bits = int(header.VOILUTSequence[0].LUTDescriptor[2])

    def look_up(values: Array) -> Floats:
        indexes = np.rint(values).astype(np.int64)  # rescaled values are floats, but often whole
        return (apply_voi(indexes, header) / ((1 << bits) - 1)).clip(0, 1)

    return look_up


def _full_range(stored: Array, header: Dataset) -> Shade:
    extremes = []
    for rows in rgb.bands(*stored.shape):
        values = apply_modality_lut(stored[rows], header)
        shown = values[np.isfinite(values) & ~_is_padding(stored[rows], header)]
        if shown.size:
            extremes += [float(shown.min()), float(shown.max())]
    low, high = min(extremes, default=0.0), max(extremes, default=0.0)
    extent = high - low or 1.0  # all black if there is one value only
    return lambda values: ((values - low) / extent).clip(0, 1)
