"""Several looks at one image, where there are too few images."""

from dataclasses import dataclass
from itertools import product

from PIL import Image


@dataclass(frozen=True, slots=True)
class View:
    """How an image is looked at: perhaps mirrored, and which part of it, from 0 to 1."""

    is_mirrored: bool = False
    share: float = 1.0
    left: float = 0.0
    top: float = 0.0

    def apply(self, image: Image.Image) -> Image.Image:
        """The part of an upright RGB image."""
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.is_mirrored else image
        if self.share == 1.0:
            return image
        size = [max(1, round(self.share * side)) for side in image.size]
        left = round(self.left * (image.width - size[0]))
        top = round(self.top * (image.height - size[1]))
        return image.crop((left, top, left + size[0], top + size[1]))


# The whole image and its mirror image, then ever smaller parts from five places.
VIEWS = (
    View(),
    View(True),
    *(
        View(is_mirrored, share, left, top)
        for share, (left, top), is_mirrored in product(
            (0.85, 0.7, 0.55), ((0, 0), (1, 1), (1, 0), (0, 1), (0.5, 0.5)), (False, True)
        )
    ),
)
