"""An image's bytes -> the network's input: one loader for every command, NumPy and Pillow only."""

import warnings
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from effnet_cli.images.decode import count_of, has_many_scans, opened_by_pillow, translated
from effnet_cli.images.finder import Url
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.images.resize import place, resize_and_crop
from effnet_cli.images.sniff import Content
from effnet_cli.images.sources import ImageSource, identified, opened
from effnet_cli.images.upright import first, flattened, turn_upright, widen_clear_colour
from effnet_cli.images.views import VIEWS
from effnet_cli.options import ImageOptions
from effnet_cli.system.errors import ImageError

# A JPEG is decoded at the smallest scale that keeps this many times the pixels (per side) that the
# resize needs: at 2 the image differs by 0.4 of 255 on average from the full decode, at 1 by 1.4.
DCT_OVERSAMPLING = 2
# A JPEG may be gone over once for each of its scans. Cameras and libraries write about ten;
# a small file with thousands of empty ones would keep the decoder for hours.
MAX_FULL_SCANS = 32  # over an image of the largest permitted size; smaller ones may have more
# Of one text or colour profile in a PNG, unpacked. Printers' profiles have 3 MB; Pillow allows 1.
MAX_TEXT_BYTES = 16 << 20
TIFF_TILE_WIDTH, TIFF_TILE_HEIGHT = 322, 323


@dataclass(frozen=True, slots=True)
class ImageLoader:
    """Opens images and makes crops of them.

    With the options' defaults, normalised crops equal torchvision's `weights.transforms()` on the
    same decoded image, to the last bit. Safe to use from several threads.
    """

    preprocessing: Preprocessing
    options: ImageOptions = ImageOptions()

    def __post_init__(self) -> None:
        # Pillow's limit is global to the process; it also guards what our look at the header cannot
        # see (frames that are larger than their file says). Its warning, given up to twice the
        # limit, counts as the error it is.
        # It is never lowered, for loaders with a higher limit: `_decoded` keeps this one's own.
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, self.options.max_pixels)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, MAX_TEXT_BYTES)

    def load(self, source: ImageSource) -> npt.NDArray[np.uint8]:
        """What the network sees of one image, a square for each view: uint8
        [V,crop_px,crop_px,3].

        Raises:
            ImageError: the image cannot be opened; `kind` says why.
        """
        image = self.open(source)
        if self.options.views == 1:
            return self.crop(image)[None]
        return np.stack([self.crop(view.apply(image)) for view in VIEWS[: self.options.views]])

    def open(self, source: ImageSource) -> Image.Image:
        """The image as RGB: first frame, upright by its EXIF orientation, transparency over
        white, 8 bits a channel.

        Raises:
            ImageError: as `load`.
        """
        if isinstance(source, Image.Image):
            return flattened(source)
        if isinstance(source, Url):
            return self.open(self._fetch(source))
        with opened(source) as file:
            content = identified(file, "" if isinstance(source, bytes) else str(source))
            with translated(content):
                return self._decoded(file, content)

    def _fetch(self, url: Url) -> bytes:
        if self.options.offline:
            raise ImageError(
                "unreadable", "URLs are not downloaded with --offline.", "Remove --offline."
            )
        from effnet_cli.images.remote import fetch_image  # 150 ms that few need

        return fetch_image(url, self.options.timeout_s)

    def _decoded(self, file: BinaryIO, content: Content) -> Image.Image:
        with opened_by_pillow(file, content) as image:
            self._check_size("image", image.width, image.height)
            if image.format == "TIFF":
                # the decoder makes room for a whole tile, however small the image is
                tags = image.getexif()
                width, height = (
                    first(tags.get(tag)) for tag in (TIFF_TILE_WIDTH, TIFF_TILE_HEIGHT)
                )
                self._check_size("image's tile", width or 0, height or 0)
            if has_many_scans(image, file):
                self._check_scans(file, image.width * image.height)
            if not self.options.exact_decode and image.format in ("JPEG", "MPO"):
                needed = place(image.width, image.height, self.preprocessing, self.options.fit)
                image.draft(
                    None, (DCT_OVERSAMPLING * needed.width, DCT_OVERSAMPLING * needed.height)
                )
            widen_clear_colour(image)
            image.load()
            turn_upright(image)
            return flattened(image)

    def _check_size(self, what: str, width: int, height: int) -> None:
        pixels = width * height
        if pixels > self.options.max_pixels:
            raise ImageError(
                "too_large",
                f"This {what} has {pixels:,} pixels ({width} x {height}), "
                f"more than the limit of {self.options.max_pixels:,}.",
                "Raise the limit with --max-pixels if you trust it.",
            )

    def _check_scans(self, file: BinaryIO, pixels: int) -> None:
        scans = count_of(file, b"\xff\xda")
        if scans * pixels > MAX_FULL_SCANS * self.options.max_pixels:
            raise ImageError(
                "too_large",
                f"This JPEG image goes over its {pixels:,} pixels {scans:,} times.",
                "Raise the limit with --max-pixels if you trust it.",
            )

    def crop(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The square that the network sees of an RGB image: uint8 [crop_px,crop_px,3]."""
        crop_px = self.preprocessing.crop_px
        placement = place(image.width, image.height, self.preprocessing, self.options.fit)
        part = resize_and_crop(image, placement, crop_px, self.preprocessing.interpolation)
        if part.size == (crop_px, crop_px):
            return np.asarray(part)
        neutral = tuple(round(255 * mean) for mean in self.preprocessing.mean)
        crop = Image.new("RGB", (crop_px, crop_px), neutral)
        crop.paste(part, (-placement.left, -placement.top))
        return np.asarray(crop)
