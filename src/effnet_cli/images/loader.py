"""Turn image files into the model's input crops, for every command and without torch."""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from effnet_cli.images import decode, rgb
from effnet_cli.images.finder import Url
from effnet_cli.images.orientation import to_upright_rgb
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.images.resize import place, resize_and_crop
from effnet_cli.images.sniff import DICOM, JPEG_XL, Content
from effnet_cli.images.sources import ImageSource, identify, open_regular_file
from effnet_cli.images.views import VIEWS
from effnet_cli.options import ImageOptions
from effnet_cli.system.errors import ImageError

if TYPE_CHECKING:  # not needed for other formats
    from PIL.TiffImagePlugin import TiffImageFile

# A JPEG is decoded at the smallest scale that keeps this many times the pixels per side that the
# resize needs. At 2, the image differs from the full decode by 0.4 of 255 on average; at 1, by 1.4.
DCT_OVERSAMPLING = 2
DCT_SCALES = (2, 4, 8)
FULL_SIZE = "\0full size"  # in an image's `info`, where texts of files have names without NUL
# Each scan of a JPEG decodes all its pixels again. Cameras and libraries write about ten scans, but
# a small file with thousands of empty ones would keep the decoder busy for hours.
MAX_FULL_SCANS = 32  # in an image of the largest permitted size; smaller ones may have more
# For one text or colour profile of a PNG, unpacked. Printer profiles take 3 MB; Pillow allows 1 MB.
MAX_TEXT_BYTES = 16 << 20
TIFF_TILE_SIZE = 322, 323  # tags


@dataclass(frozen=True, slots=True)
class ImageLoader:
    """Opens images and makes crops of them; safe to use from several threads.

    With the default options, normalised crops equal torchvision's `weights.transforms()` on the
    same decoded image, bit for bit.
    """

    preprocessing: Preprocessing
    options: ImageOptions = ImageOptions()

    def __post_init__(self) -> None:
        # Pillow's limit also guards what the header does not show (frames that are larger than
        # their file says). Up to twice the limit it only warns, which counts as an error here.
        # The limit is global to the process, so it is only raised; `_decode` checks this loader's.
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, self.options.max_pixels)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, MAX_TEXT_BYTES)

    def load(self, source: ImageSource) -> npt.NDArray[np.uint8]:
        """Load the crops of one image, one per view: uint8 [V,crop_px,crop_px,3].

        Raises:
            ImageError: the image cannot be opened; `kind` says why.
        """
        image = self.open(source)
        if self.options.views == 1:
            return self.crop(image)[None]
        return np.stack([self.crop(view.apply(image)) for view in VIEWS[: self.options.views]])

    def open(self, source: ImageSource) -> Image.Image:
        """Open the image's first frame as RGB: upright by its EXIF orientation, transparency over
        white, 8 bits per channel.

        Raises:
            ImageError: as `load`.
        """
        if isinstance(source, Image.Image):
            if 0 in source.size:
                message = f"The image has no pixels ({source.width} x {source.height})."
                raise ImageError("empty", message, "Use another image.")
            with decode.translate_errors(Content("an image")):
                image = to_upright_rgb(source)
                return image.copy() if image is source else image  # callers may change it
        if isinstance(source, Url):
            from effnet_cli.images.remote import fetch_image  # an import of 150 ms that few need

            return self.open(fetch_image(source, self.options.timeout_s))
        with open_regular_file(source) as file:
            content = identify(file, "" if isinstance(source, bytes) else str(source))
            with decode.translate_errors(content):
                return self._decode(file, content)

    def crop(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Resize an RGB image and crop it to the model's input: uint8 [crop_px,crop_px,3]."""
        crop_px = self.preprocessing.crop_px
        full_size, scale = _find_reduction(image)
        placement = place(full_size, self.preprocessing, self.options.fit)
        extent = full_size[0] / scale, full_size[1] / scale
        part = resize_and_crop(image, placement, self.preprocessing, extent=extent)
        if part.size == (crop_px, crop_px):
            return np.asarray(part)
        crop = Image.new("RGB", (crop_px, crop_px), self.preprocessing.neutral_rgb)
        crop.paste(part, (-placement.left, -placement.top))
        return np.asarray(crop)

    def _decode(self, file: BinaryIO, content: Content) -> Image.Image:
        if content.format == "TIFF":
            return self._decode_tiff(file, content)
        if content.format == JPEG_XL:
            from effnet_cli.images import jpegxl  # rare

            data = file.read()
            self._check_size("image", jpegxl.read_size(data))
            return jpegxl.read(data)
        if content.format == DICOM:
            from effnet_cli.images import dicom  # an extra

            return dicom.read(file, self.options, self._check_size)
        with decode.open_with_pillow(file, content) as image:
            self._check_size("image", image.size)
            if decode.has_many_scans(image, file):
                self._check_scans(decode.count_scans(file), image.width * image.height)
            full_size = image.size
            if not self.options.exact_decode and image.format in ("JPEG", "MPO"):
                needed = place(image.size, self.preprocessing, self.options.fit)
                image.draft(
                    None, (DCT_OVERSAMPLING * needed.width, DCT_OVERSAMPLING * needed.height)
                )
            other = self._decode_otherwise(file, image)
            if other is not None:
                return other
            rgb.scale_transparent_color(image)
            image.load()
            reduced_size = image.size
            flat = to_upright_rgb(image)
            if reduced_size != full_size:
                is_turned = flat.size != reduced_size
                flat.info[FULL_SIZE] = full_size[::-1] if is_turned else full_size
            return flat

    def _decode_tiff(self, file: BinaryIO, content: Content) -> Image.Image:
        from effnet_cli.images import tiff  # not needed for other formats

        try:
            opened = decode.open_with_pillow(file, content)
        except Exception as error:
            if tiff.is_unsupported(file, error):
                return tiff.read(file, self._check_size)
            raise
        with cast("TiffImageFile", opened) as image:
            self._check_size("image", image.size)
            tags = image.getexif()
            # the decoder allocates a whole tile, even for a small image
            width, height = (rgb.first_value(tags.get(tag)) or 0 for tag in TIFF_TILE_SIZE)
            self._check_size("image's tile", (width, height))
            if not tiff.is_read_by_pillow(image):
                return tiff.read(file, self._check_size)
            image.load()
            if tiff.has_8_bit_colors(image):
                tiff.use_8_bit_colors(image)
            return to_upright_rgb(image)

    def _decode_otherwise(self, file: BinaryIO, image: Image.Image) -> Image.Image | None:
        """Decode what Pillow decodes wrongly or slowly; `None` for everything else."""
        format = image.format
        if format not in ("JPEG2000", "PPM", "PSD"):
            return None
        from effnet_cli.images import jpeg2000, ppm, psd  # rare

        if format == "PSD":
            psd.check(file, getattr(image, "resources", []))
            return None
        position = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(position)
        if format == "PPM":
            return ppm.read(data)
        bits, order = jpeg2000.deep_color_bits(data), jpeg2000.channel_order(data)
        if bits is not None:
            return jpeg2000.read(data, bits)
        return None if order is None else to_upright_rgb(jpeg2000.reorder(image, order))

    def _check_size(self, what: str, size: tuple[int, int]) -> None:
        width, height = size
        if width * height > self.options.max_pixels:
            raise ImageError(
                "too_large",
                f"This {what} has {width * height:,} pixels ({width} x {height}), "
                f"more than the limit of {self.options.max_pixels:,}.",
                decode.MAX_PIXELS_HINT,
            )

    def _check_scans(self, scans: int, pixels: int) -> None:
        if scans * pixels > MAX_FULL_SCANS * self.options.max_pixels:
            message = f"This JPEG image has too many scans ({scans:,}, of {pixels:,} pixels each)."
            raise ImageError("too_large", message, decode.MAX_PIXELS_HINT)


def _find_reduction(image: Image.Image) -> tuple[tuple[int, int], int]:
    """Return the size that an image had before the decoder reduced it, and the scale (1 for none).

    Crops are placed by this size: the reduced one is rounded up, and would move them by a pixel.
    Parts of a reduced image count as images of their own.
    """
    width, height = image.info.get(FULL_SIZE, image.size)
    for scale in DCT_SCALES:
        if image.size == (-(-width // scale), -(-height // scale)):
            return (width, height), scale
    return image.size, 1
