"""Create photos for measurements from those in sample_images: seeded, so always the same.

photos.py OUT  ->  OUT/web (256 JPEGs of about 640 x 480), OUT/phone (32 JPEGs of 12 megapixels)
"""

import random
import sys
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

SAMPLES = Path(__file__).parents[1] / "sample_images"
WEB_SIZES = [(640, 480), (480, 640), (800, 600), (500, 375)]
PHONE_SIZES = [(4032, 3024), (3024, 4032)]
ROW_PX = 500


def varied(photos: list[Image.Image], chance: random.Random) -> Image.Image:
    """Return one of the photos, perhaps mirrored, a little brighter or darker."""
    photo = chance.choice(photos)
    if chance.random() < 0.5:
        photo = ImageOps.mirror(photo)
    return ImageEnhance.Brightness(photo).enhance(chance.uniform(0.7, 1.3))


def mosaic(photos: list[Image.Image], size: tuple[int, int], chance: random.Random) -> Image.Image:
    """Return a large image with a photo's detail everywhere."""
    image = Image.new("RGB", size)
    for top in range(0, size[1], ROW_PX):
        left = 0
        while left < size[0]:
            tile = varied(photos, chance)
            tile = tile.resize((tile.width * ROW_PX // tile.height, ROW_PX))
            image.paste(tile, (left, top))
            left += tile.width
    return image


def main() -> None:
    """Write both folders."""
    out = Path(sys.argv[1])
    paths = sorted(p for p in SAMPLES.iterdir() if p.suffix != ".md")
    photos = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in paths]
    chance = random.Random(0)
    for name in ("web", "phone"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for number in range(256):
        photo = varied(photos, chance).resize(chance.choice(WEB_SIZES))
        photo.save(out / "web" / f"{number:03}.jpg", quality=90)
    for number in range(32):
        photo = mosaic(photos, chance.choice(PHONE_SIZES), chance)
        photo.save(out / "phone" / f"{number:02}.jpg", quality=92)


if __name__ == "__main__":
    main()
