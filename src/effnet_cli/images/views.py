"""Views of an image for test-time augmentation and for calibration on few images."""

from dataclasses import dataclass
from itertools import product

from PIL import Image


@dataclass(frozen=True, slots=True)
class View:
    """A part of an image: its share of each side, its position (0..1), and if it is mirrored."""

    is_flipped: bool = False
    share: float = 1.0
    left: float = 0.0
    top: float = 0.0

    def apply(self, image: Image.Image) -> Image.Image:
        """Return this view of an upright RGB image."""
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.is_flipped else image
        if self.share == 1.0:
            return image
        size = [max(1, round(self.share * side)) for side in image.size]
        left = round(self.left * (image.width - size[0]))
        top = round(self.top * (image.height - size[1]))
        return image.crop((left, top, left + size[0], top + size[1]))


# The whole image and its mirror image, then ever smaller parts at five positions.
VIEWS = (
    View(),
    View(is_flipped=True),
    *(
        View(is_flipped, share, left=left, top=top)
        for share, (left, top), is_flipped in product(
            (0.85, 0.7, 0.55), ((0, 0), (1, 1), (1, 0), (0, 1), (0.5, 0.5)), (False, True)
        )
    ),
)
