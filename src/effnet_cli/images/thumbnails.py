"""Small pictures for pages."""

import io

from PIL import Image

from effnet_cli.errors import PictureError
from effnet_cli.images.loader import PictureLoader, Source
from effnet_cli.variants import DEFAULT_VARIANT, find

QUALITY = 78  # of JPEG: about 3 kB for 128 pixels


def thumbnail(source: Source, side_px: int) -> bytes | None:
    """A picture as a JPEG of at most `side_px` a side; `None` if it cannot be opened."""
    try:
        image = PictureLoader(find(DEFAULT_VARIANT).preprocessing).open(source)
    except PictureError:
        return None
    image.thumbnail((side_px, side_px), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY)
    return content.getvalue()
