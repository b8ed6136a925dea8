"""The gallery: its content and counts, no scripts from names, bounded size."""

import base64
import io
import re
import subprocess
import sys
from collections.abc import Iterable
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from effnet_cli.options import ErrorKind
from effnet_cli.predict import gallery as room
from effnet_cli.predict.gallery import MAX_FAILED, MAX_PATH_CHARS, SHARP_PX, SMALL_PX, Gallery
from effnet_cli.predict.page import KIND_LABELS, MAX_FILTER_CLASSES, OTHERS, gallery_page
from effnet_cli.predict.ranking import UNKNOWN
from effnet_cli.predict.records import ErrorInfo, ImageResult, Overlay, Prediction, ResultRow

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>\x1b[31m\u202e\udcff"


def crop(side_px: int = 224, red: int = 200) -> npt.NDArray[np.uint8]:
    """Return pixels with one bright side, so that a JPEG of them is not uniform."""
    pixels = np.full((side_px, side_px, 3), 30, np.uint8)
    pixels[:, side_px // 2 :, 0] = red
    return pixels


SQUARE = crop()


def classified(path: str, label: str, probability: float, **more: object) -> ResultRow:
    index = None if label == UNKNOWN else 7
    others = Prediction(2, 8, "runner-up", (1 - probability) / 2)
    pixels = more.pop("overlay", None)
    overlay = None if pixels is None else Overlay("overlay.jpg", pixels)  # type: ignore[arg-type]
    given = {"crop": SQUARE, **more}
    predictions = (Prediction(1, index, label, probability), others)
    return ResultRow(ImageResult(path, predictions, **given), overlay)  # type: ignore[arg-type]


def failed(path: str, kind: str = "truncated", message: str = "It is cut off.") -> ResultRow:
    return ResultRow(ImageResult(path, error=ErrorInfo(kind, message)))


def collected(predictions: Iterable[ResultRow]) -> Gallery:
    gallery = Gallery("lite0", "onnxruntime", [("weights", "the usual ones")])
    for row in predictions:
        gallery.add(row)
    return gallery


def page_of(*predictions: ResultRow) -> str:
    return gallery_page(collected(predictions))


def images(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(content, validate=True))) for content in found]


def chips(page: str) -> dict[str, tuple[str, int]]:
    """Return the filters: mark -> name, number of images."""
    found = re.findall(r'id="([cs]\d+)"><bdi>(.*?)</bdi> <small>([\d,]+)</small>', page)
    return {mark: (name, int(number.replace(",", ""))) for mark, name, number in found}


def figures(page: str) -> list[str]:
    return re.findall(r"<figure.*?</figure>", page, re.DOTALL)


# --- what the page shows ------------------------------------------------------------------------


def test_answers_stand_with_their_shares_and_names() -> None:
    page = page_of(
        classified("trip/cat & dog.jpg", "tabby", 0.876), classified("b.jpg", "lynx", 0.3)
    )
    first, second = figures(page)
    for words in ("tabby", "87.6%", "runner-up", "6.2%", "trip/", "cat &amp; dog.jpg"):
        assert words in first
    assert "lynx" in second
    assert 'alt="cat &amp; dog.jpg"' in first
    assert "2 images, none failed." in page
    assert "Classified by lite0 on onnxruntime." in page
    assert "the usual ones" in page


def test_answer_tells_what_is_frequent_and_what_failed() -> None:
    rows = [classified(f"{n}.jpg", "tabby" if n < 6 else "lynx", 0.95) for n in range(8)]
    page = page_of(*rows, failed("x.jpg"), classified("u.jpg", UNKNOWN, 0.2))
    assert "10 images, 1 unknown, 1 failed." in page
    assert "Most frequent: tabby (67%), lynx (22%); 2 classes in total." in page
    assert "above 90%: 8" in page
    assert "unknown: 1" in page
    assert "failed: 1" in page


def test_unknown_images_belong_to_no_class() -> None:
    page = page_of(classified("a.jpg", UNKNOWN, 0.4), classified("b.jpg", "tabby", 0.9))
    assert "2 images, 1 unknown, none failed." in page
    assert "40.0%" in figures(page)[0]
    assert chips(page)["s3"] == ("unknown", 1)
    assert 'class="s3"' in figures(page)[0]


def test_one_image_none_and_only_failures_need_no_filters() -> None:
    one, none, bad = page_of(classified("a.jpg", "tabby", 0.4)), page_of(), page_of(failed("a.jpg"))
    assert "Most likely: tabby." in one
    assert "No images." in none
    assert "1 image, 1 failed." in bad
    for page in (one, none, bad):
        assert "<form" not in page
        assert "<input" not in page
    assert "<figure" not in none + bad


def test_images_are_what_the_network_saw_and_what_speaks_for_the_answer() -> None:
    plain, drawn = classified("a.jpg", "tabby", 0.5), classified("b.jpg", "lynx", 0.5)
    drawn = classified("b.jpg", "lynx", 0.5, crop=crop(600), overlay=crop(600, red=90))
    page = page_of(plain, drawn)
    small, large, over = images(page)
    assert [one.size for one in (small, large, over)] == [(224, 224), (320, 320), (320, 320)]
    assert np.allclose(np.asarray(small)[10, 200], [200, 30, 30], atol=12)
    assert np.allclose(np.asarray(over)[10, 300], [90, 30, 30], atol=12)
    without, with_overlay = figures(page)
    assert "<input" not in without
    assert 'aria-label="Show the Grad-CAM overlay for lynx"' in with_overlay
    assert 'id="overlays"' in page
    assert 'id="overlays"' not in page_of(plain, plain)


def test_image_without_pixels_has_no_preview() -> None:
    page = page_of(classified("https://example.org/a.jpg", "espresso", 0.9, crop=None))
    assert not images(page)
    assert "no preview" in figures(page)[0]


# --- filters ------------------------------------------------------------------------------------


def test_filters_are_the_frequent_classes_and_the_steps_of_certainty() -> None:
    rows = [classified(f"{n}.jpg", f"class {k}", 0.95) for k in range(20) for n in range(20 - k)]
    page = page_of(*rows, classified("y.jpg", "class 0", 0.5), classified("z.jpg", "class 0", 0.49))
    found = chips(page)
    names = [name for mark, (name, _) in found.items() if mark.startswith("c")]
    assert names == [*(f"class {k}" for k in range(MAX_FILTER_CLASSES - 1)), OTHERS]
    assert found["c0"] == ("class 0", 22)
    assert found[f"c{MAX_FILTER_CLASSES - 1}"] == (OTHERS, sum(range(1, 10)))
    assert [found[f"s{n}"][1] for n in range(3)] == [210, 1, 1]
    for mark, (_, number) in found.items():
        marked = re.findall(rf'<figure class="(?:[cs]\d+ )*{mark}(?: [cs]\d+)*"', page)
        assert len(marked) == number
        assert f"main:has(#{mark}:checked) figure:not(.{mark}) {{ display: none; }}" in page


def test_filters_that_leave_nothing_say_so() -> None:
    page = page_of(classified("a.jpg", "tabby", 0.95), classified("b.jpg", "lynx", 0.2))
    empty = re.findall(r"#(\w+):checked\):has\(#(\w+):checked\) \.nothing", page)
    assert empty == [("c0", "s2"), ("c1", "s0")]


def test_filter_of_one_choice_is_left_out() -> None:
    page = page_of(classified("a.jpg", "tabby", 0.95), classified("b.jpg", "tabby", 0.2))
    assert list(chips(page)) == ["s0", "s2"]


def test_order_by_certainty_is_each_image_s_place() -> None:
    page = page_of(*(classified(f"{p}.jpg", "tabby", p) for p in (0.5, 0.9, 0.1)))
    assert re.findall(r"--o:(\d+)", page) == ["1", "0", "2"]


# --- failures -----------------------------------------------------------------------------------


def test_failures_stand_by_kind_and_message() -> None:
    bad = [failed(f"{n}.jpg") for n in range(3)]
    page = page_of(
        *bad, failed("o.jpg", message="Another."), failed("n.txt", "not_an_image", "No.")
    )
    kinds = re.findall(r"<details.*?</details>", page, re.DOTALL)
    assert len(kinds) == 2
    assert KIND_LABELS["truncated"] in kinds[0]
    assert "<small>4</small>" in kinds[0]
    assert kinds[0].count("It is cut off.") == 1
    assert kinds[0].count("<li>") == 4
    assert "n.txt" in kinds[1]


def test_every_kind_of_failure_has_a_name() -> None:
    assert set(KIND_LABELS) == set(get_args(ErrorKind))


# --- nothing runs, nothing is loaded, nothing breaks --------------------------------------------


def test_page_runs_and_loads_nothing() -> None:
    page = page_of(
        classified(f"{HOSTILE}/{HOSTILE}", HOSTILE, 0.9, overlay=SQUARE),
        classified("b", "tabby", 0.2),
        failed(HOSTILE, HOSTILE, HOSTILE),
    )
    assert "<script" not in page
    assert "<img src=x" not in page
    assert not re.search(r"\son\w+=", re.sub(r"&lt;img src=x onerror=", "", page))
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    assert page.count("http") == 1  # http-equiv
    assert not re.search(r"url\(|@import|<link|javascript:", page)
    for character in ("\x1b", "\u202e", "\udcff"):
        assert character not in page
    assert "\\x1b[31m\\u202e\\xff" in page
    assert page.count("&lt;script&gt;") >= 10
    page.encode("utf-8")


def test_names_stand_in_attributes_as_text() -> None:
    page = page_of(classified('" onmouseover="alert(1)', '" autofocus="', 0.9))
    assert not re.search(r'<[^>]*" (onmouseover|autofocus)="', page)
    assert "&#34; onmouseover=&#34;alert(1)" in page


def test_path_is_cut_in_the_middle() -> None:
    path = "start/" + "x" * 5_000 + "/the end.jpg"
    (shown,) = collected([classified(path, "y" * 5_000, 0.9)]).images
    assert len(shown.path) == MAX_PATH_CHARS
    assert shown.path.startswith("start/")
    assert shown.path.endswith("/the end.jpg")
    assert len(shown.predictions[0].label) <= MAX_PATH_CHARS


# --- bounds -------------------------------------------------------------------------------------


def test_many_images_become_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FEW_IMAGES", 3)
    row = classified("a.jpg", "tabby", 0.9, crop=crop(400), overlay=crop(400))
    assert {one.size for one in images(page_of(row, row, row))} == {(SHARP_PX, SHARP_PX)}
    assert {one.size for one in images(page_of(row, row, row, row))} == {(SMALL_PX, SMALL_PX)}


def test_images_are_bounded_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_IMAGES", 5)
    page = page_of(*(classified(f"{n}.jpg", f"class {n % 2}", 0.9) for n in range(1_200)))
    assert len(figures(page)) == 5
    assert "Only the first 5 of 1,200 images are shown" in page
    assert "1,200 images, none failed." in page
    assert "class 0 (50%)" in page
    assert "above 90%: 1,200" in page
    assert "4.jpg" in page
    assert "5.jpg" not in page


def test_bytes_are_bounded_without_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = classified("s", "tabby", 0.9, crop=crop(8)), classified("l", "tabby", 0.9)
    (shown,) = collected([small]).images
    monkeypatch.setattr(room, "MAX_IMAGE_BYTES", 2 * shown.size_bytes)
    found = collected([small, large, small])
    assert [one.path for one in found.images] == ["s"]
    assert found.succeeded == 3


def test_failures_are_bounded_and_the_rest_is_counted() -> None:
    page = page_of(*(failed(f"{n}.jpg") for n in range(MAX_FAILED + 1_100)))
    assert page.count("<li><bdi>") == MAX_FAILED
    assert "… and 1,100 more." in page
    assert f"<small>{MAX_FAILED + 1_100:,}</small>" in page
    assert "<details>" in page  # folded


def test_room_needs_neither_torch_nor_a_library_of_charts() -> None:
    code = (
        "import sys; from effnet_cli.predict.gallery import Gallery; "
        "from effnet_cli.predict.page import gallery_page; gallery_page(Gallery('m', 'e')); "
        "print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
