"""The model card: its JSON, and invalid cards."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from effnet_cli.models import checkpoint
from effnet_cli.models.card import CARD_KEY, CARD_VERSION, MODEL_FILE_NAME, ModelCard
from effnet_cli.system.errors import UsageError
from model_files import ARRAYS, CARD, PREPROCESSING, TEXT, header_with, make_point, with_header

# Text, and the bytes of folders' names; other lone surrogates are refused.
CLASS_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.binary(
    max_size=12
).map(lambda name: name.decode(errors="surrogateescape"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / MODEL_FILE_NAME


def test_header_is_plain_json(path: Path) -> None:
    checkpoint.write(path, CARD, ARRAYS)
    with safe_open(path, framework="np") as file:
        content = json.loads(file.metadata()[CARD_KEY])
    assert content["format_version"] == CARD_VERSION
    assert content["classes"] == list(CARD.classes)
    assert content["preprocessing"]["crop_px"] == 57
    assert content["temperature"] == 1.75


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    classes=st.lists(CLASS_NAMES, min_size=1, max_size=5),
    temperature=st.floats(1e-3, 1e3),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    metrics=st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    options=st.dictionaries(TEXT, st.none() | st.booleans() | st.integers() | TEXT, max_size=3),
)
def test_any_card_round_trips(
    classes: list[str],
    temperature: float,
    mean: tuple[float, float, float],
    metrics: dict[str, float],
    options: dict[str, object],
    path: Path,
) -> None:
    card = ModelCard(
        "b0",
        tuple(classes),
        replace(PREPROCESSING, mean=mean),
        temperature,
        options=options,
        metrics=metrics,
    )
    checkpoint.write(path, card, ARRAYS)
    assert checkpoint.read_arrays(path)[0] == card


def test_operating_points_round_trip(path: Path) -> None:
    points = (make_point(), make_point("chat", metric="npv"))
    checkpoint.write(path, replace(CARD, operating_points=points), ARRAYS)
    assert checkpoint.read_card(path).operating_points == points


def test_card_of_an_earlier_version_has_no_operating_points(path: Path) -> None:
    header = json.loads(CARD.to_json())
    del header["operating_points"]
    assert ModelCard.from_json(json.dumps(header)) == CARD


def test_class_name_that_is_no_text_is_refused(path: Path) -> None:
    checkpoint.write(path, replace(CARD, classes=("\ud800x", "other")), ARRAYS)
    with pytest.raises(UsageError, match=r"class name '\\ud800x' contains an unpaired surrogate"):
        checkpoint.read_card(path)


@pytest.mark.parametrize(
    "name",
    [os.fsdecode(b"\xff\xfe"), "a\nb\r\0", "😀", "ﷺ", '"\\', "", "x" * 10_000, "\u202e"],
)
def test_any_class_name_round_trips(name: str, path: Path) -> None:
    checkpoint.write(path, replace(CARD, classes=(name, "other")), ARRAYS)
    assert checkpoint.read_arrays(path)[0].classes == (name, "other")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["metrics", "options", "dataset"])
def test_nan_is_not_written(value: float, place: str, path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        checkpoint.write(path, replace(CARD, **{place: {"figure": [value]}}), ARRAYS)
    assert not list(path.parent.iterdir())


def test_newer_format_version_is_refused(path: Path) -> None:
    with_header(path, header_with(format_version=2))
    with pytest.raises(UsageError, match="format version is 2, expected 1"):
        checkpoint.read_card(path)


def point_header(**changes: object) -> str:
    """Return a header with an operating point that has other values."""
    return header_with(operating_points=[{**asdict(make_point()), **changes}])


SHARE = asdict(make_point().sensitivity)
HEADERS = {
    "empty": ("", "Expecting value"),
    "text": ("not JSON", "Expecting value"),
    "list": ("[1]", "not a JSON object"),
    "empty object": ("{}", "format version is None"),
    "100,000 brackets": ("[" * 100_000, ""),
    "version in text": (header_with(format_version="1"), "format version is '1'"),
    "version only": (json.dumps({"format_version": 1}), "preprocessing"),
    "no classes": (header_with(classes=[]), "class names"),
    "numbers for classes": (header_with(classes=[1, 2]), "class names"),
    "text for classes": (header_with(classes="abc"), "class names"),
    "object for classes": (header_with(classes={"cat": 0}), "class names"),
    "null for classes": (header_with(classes=None), ""),
    "empty preprocessing": (header_with(preprocessing={}), "resize_px"),
    "list for preprocessing": (header_with(preprocessing=[224]), "is not a JSON object"),
    "temperature 0": (header_with(temperature=0), "temperature is 0"),
    "negative temperature": (header_with(temperature=-1.0), "temperature is -1.0"),
    "text for temperature": (header_with(temperature="1"), "temperature is '1'"),
    "NaN for temperature": (header_with(temperature=float("nan")), ""),
    "NaN in metrics": (header_with(metrics={"loss": float("nan")}), ""),
    "unknown field": (header_with(another=1), "another"),
    "number for variant": (header_with(variant=3), "variant"),
    "object for points": (header_with(operating_points={}), "points are not a list"),
    "number for a point": (header_with(operating_points=[1]), "point is not a JSON object"),
    "point without values": (header_with(operating_points=[{}]), "operating point has no"),
    "same points": (header_with(operating_points=[asdict(make_point())] * 2), "the same name"),
    "class of a point": (point_header(positive="dog"), "the positive of its operating point"),
    "metric of a point": (point_header(metric="f1"), "the metric of"),
    "list for a metric": (point_header(metric=[]), "the metric of"),
    "threshold above 1": (point_header(threshold=1.5), "the threshold of"),
    "text for a threshold": (point_header(threshold="0.5"), "the threshold of"),
    "true for a threshold": (point_header(threshold=True), "the threshold of"),
    "fraction of images": (point_header(true_positives=1.5), "the true_positives of"),
    "negative count": (point_header(false_positives=-1), "the false_positives of"),
    "no sensitivity": (point_header(sensitivity=None), "the sensitivity of"),
    "number for a share": (point_header(sensitivity=0.5), "is not a JSON object"),
    "unknown part of a share": (point_header(ppv={**SHARE, "x": 1}), "the unknown field 'x'"),
    "number for an interval": (point_header(npv={**SHARE, "interval": 0.5}), "the npv of"),
    "three limits": (point_header(npv={**SHARE, "interval": [0, 0, 1]}), "the npv of"),
    "text for a value": (point_header(npv={**SHARE, "value": "0.5"}), "the npv of"),
    "fit of a point": (point_header(fit="round"), "the fit of"),
    "precision of a point": (point_header(precision="fp8"), "the precision of"),
}


@pytest.mark.parametrize(("header", "difference"), HEADERS.values(), ids=HEADERS)
def test_invalid_header_is_refused_with_the_first_difference(
    header: str, difference: str, path: Path
) -> None:
    with_header(path, header)
    with pytest.raises(UsageError) as caught:
        checkpoint.read_card(path)
    assert f"{str(path)!r} is not a model file: " in caught.value.message
    assert difference in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop_px", "224"),
        ("crop_px", 0),
        ("resize_px", -1),
        ("resize_px", 1.5),
        ("interpolation", "nearest"),
        ("mean", [0.5, 0.5]),
        ("mean", ["a", "b", "c"]),
        ("std", [1, 0, 1]),
        ("std", None),
    ],
)
def test_invalid_preprocessing_is_refused(name: str, value: object, path: Path) -> None:
    preprocessing = {**json.loads(CARD.to_json())["preprocessing"], name: value}
    with_header(path, header_with(preprocessing=preprocessing))
    with pytest.raises(UsageError) as caught:
        checkpoint.read_card(path)
    assert name in caught.value.message
