"""How a model's weights expect their input."""

from dataclasses import dataclass
from typing import Literal

Interpolation = Literal["bilinear", "bicubic"]
Triple = tuple[float, float, float]  # red, green, blue


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the model's input, as when the weights were evaluated.

    The shorter side, or with `is_squashed` each side, is resized to `resize_px`; the centre
    `crop_px` x `crop_px` is kept, and values are scaled to 0..1, then to `(value - mean) / std` per
    channel (red, green, blue).
    """

    resize_px: int
    crop_px: int
    interpolation: Interpolation
    mean: Triple
    std: Triple
    is_squashed: bool = False

    @property
    def neutral_rgb(self) -> tuple[int, ...]:
        """The colour (0..255) that becomes about 0, for places without an image."""
        return tuple(round(255 * mean) for mean in self.mean)
