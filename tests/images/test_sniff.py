"""Formats detected from the first and last bytes."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effnet_cli.images.sniff import HEAD_BYTES, TGA_FOOTER, sniff

FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "PPM", "JPEG2000", "AVIF"]


def encode(format: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (16, 12)).save(file, format, **options)
    return file.getvalue()


def detect_format(data: bytes, name: str = "") -> str | None:
    content = sniff(data[:HEAD_BYTES], name, data[-len(TGA_FOOTER) :])
    return content.format if content else None


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_identified(format: str) -> None:
    assert detect_format(encode(format)) == format
    assert detect_format(encode(format), "wrong.tga") == format


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("TIFF", {"big_tiff": True}),
        ("TIFF", {"mode": "I;16B"}),
        ("JPEG2000", {"no_jp2": True}),
        ("PPM", {"mode": "L"}),
        ("PPM", {"mode": "1"}),
        ("BMP", {"mode": "1"}),
        ("AVIF", {"save_all": True, "append_images": [Image.new("RGB", (16, 12), "red")]}),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_rare_kinds_of_a_format_are_identified(format: str, options: dict[str, object]) -> None:
    assert detect_format(encode(format, **options)) == format


@pytest.mark.parametrize(
    "head", [b"P5 2 2 255\n", b"P6\n# by GIMP\n2 2\n255\n", b"P1\t2 2\n", b"P2\r\n2 2 9\n"]
)
def test_ppm_can_have_any_white_space_and_comments(head: bytes) -> None:
    assert detect_format(head) == "PPM"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
@pytest.mark.parametrize("compression", [None, "tga_rle"])
def test_tga_is_identified_by_its_footer_or_its_name(mode: str, compression: str | None) -> None:
    data = encode("TGA", mode, compression=compression)
    assert detect_format(data) == "TGA"
    without_footer = data[: -len(TGA_FOOTER)]
    assert detect_format(without_footer) != "TGA"
    assert detect_format(without_footer, "A.TGA") == "TGA"


@pytest.mark.parametrize(
    "text",
    [
        b"BMI of the patients\n",
        b"BM",
        b"P1 was the first patient\n",
        b"P7\nWIDTH 2\n",
        b"GIF is a format\n",
        b"RIFFs of the eighties\n",
        b"plain words\n",
    ],
)
def test_text_that_begins_like_an_image_is_not_an_image(text: bytes) -> None:
    content = sniff(text)
    assert content is None or not content.is_image


@given(st.binary(max_size=HEAD_BYTES), st.text(max_size=8), st.binary(max_size=20))
def test_any_bytes_are_sniffed_without_an_error(head: bytes, name: str, tail: bytes) -> None:
    content = sniff(head, name, tail)
    assert content is None or content.description
    assert content is None or content.format is None or content.is_image


FILES = [encode(format) for format in (*FORMATS, "TGA")]


@given(st.sampled_from(FILES), st.integers(0, 64))
def test_any_beginning_of_an_image_is_its_format_or_unknown(data: bytes, end: int) -> None:
    content = sniff(data[:end])
    assert content is None or content.format in (*FORMATS, None)


@pytest.mark.parametrize("start", [bytes(4), b"II*\0", b"\xff\xd8\xff\xe0"])
def test_dicom_is_identified_whatever_its_preamble(start: bytes) -> None:
    assert detect_format(start + bytes(124) + b"DICM" + bytes(60)) == "DICOM"


@pytest.mark.parametrize(
    ("head", "description"),
    [
        (b"\xff\xd8\xff\xf7" + bytes(60), "a JPEG-LS image"),
        (b"\0\0\1\0\0\0\x12\x34" + bytes(60), "a macOS resource file, such as a font"),
        (bytes(512) + bytes(10) + b"\0\x11\2\xff" + bytes(50), "a PICT image"),
        (b"/* XPM */ static char *x[]", "an X pixmap"),
        (b"\x97JB2\r\n\x1a\n" + bytes(9), "a JBIG2 image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjpm " + bytes(9), "a JPM document"),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypmjp2" + bytes(9), "a Motion JPEG 2000 video"),
    ],
)
def test_lookalikes_are_named(head: bytes, description: str) -> None:
    content = sniff(head)
    assert content is not None
    assert (content.description, content.format) == (description, None)
