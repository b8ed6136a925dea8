"""Decisions by an operating point: in every format, with other options, and in exports."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs_pages import docs_page
from effnet_cli.engines.base import to_probabilities
from effnet_cli.export.run import export
from effnet_cli.images.finder import ImageInput
from effnet_cli.models import checkpoint
from effnet_cli.models.operating_point import COUNTS
from effnet_cli.options import ExportOptions, ExportTask, ModelOptions, PredictOptions
from effnet_cli.predict.classifier import Classifier
from effnet_cli.predict.pipeline import ScoredImage
from effnet_cli.predict.ranking import Ranking
from effnet_cli.system.errors import UsageError
from model_files import CARD, make_point
from training import CommandResult, FinishedRun, make_classes

pytestmark = pytest.mark.usefixtures("one_core", "caches")

Effnet = Callable[..., CommandResult]
CROPS = np.zeros((1, 4, 4, 3), np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """New images for `head_run`, and one that cannot be opened."""
    root = tmp_path_factory.mktemp("decide") / "new"
    make_classes(root, images=8, first_seed=500)
    (root / "red" / "broken.png").write_bytes(b"\x89PNG")
    return root


@pytest.fixture(scope="module")
def model(head_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `head_run` with three points, one of which calls nearly everything positive."""
    path = tmp_path_factory.mktemp("model") / "points.safetensors"
    points = (
        make_point("red", metric="sensitivity", asked=0.99, threshold=0.02),
        make_point("red", metric="ppv", asked=0.9, threshold=0.7),
        make_point("red", metric="ppv", asked=0.99, threshold=0.9),
    )
    checkpoint.write(path, replace(head_run.card, operating_points=points), head_run.tensors)
    return path


def rows_of(done: CommandResult) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


# --- decisions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "labels", "is_positive"),
    [
        (0.05, ["café", "chat", "犬"], True),  # although it is the least probable
        (0.2, ["chat", "犬", "café"], False),
        (0.0, ["café", "chat", "犬"], True),
    ],
)
@pytest.mark.parametrize("top_k", [1, 2, 3, 5])
def test_decision_comes_first_and_the_others_by_probability(
    threshold: float, labels: list[str], is_positive: bool, top_k: int
) -> None:
    scores = np.log(np.float32([0.6, 0.1, 0.3])) * CARD.temperature
    ranking = Ranking(CARD, top_k=top_k, point=make_point(threshold=threshold))
    result = ranking(ImageInput("a", b""), ScoredImage(CROPS, scores))
    assert [one.label for one in result.predictions] == labels[:top_k]
    assert [one.rank for one in result.predictions] == list(range(1, 1 + min(top_k, 3)))
    decision = result.operating_point
    assert decision is not None
    assert (decision.name, decision.label) == ("sensitivity=0.75", "café")
    assert decision.probability == pytest.approx(0.1)
    assert (decision.threshold, decision.is_positive) == (threshold, is_positive)


def test_best_class_below_its_threshold_is_not_predicted() -> None:
    scores = np.log(np.float32([0.1, 0.7, 0.2])) * CARD.temperature
    ranking = Ranking(CARD, top_k=2, point=make_point(threshold=0.8))
    result = ranking(ImageInput("a", b""), ScoredImage(CROPS, scores))
    assert [one.label for one in result.predictions] == ["犬", "café"]


def test_probability_equal_to_the_threshold_is_positive() -> None:
    scores = np.log(np.float32([0.1, 0.7, 0.2]))
    (probabilities,) = to_probabilities(scores[None], "logits", CARD.temperature)
    for threshold, is_positive in (
        (float(probabilities[1]), True), (float(np.nextafter(probabilities[1], 1)), False),
    ):  # fmt: skip
        ranking = Ranking(CARD, point=make_point(threshold=threshold))
        decision = ranking(ImageInput("a", b""), ScoredImage(CROPS, scores)).operating_point
        assert decision is not None
        assert decision.is_positive is is_positive


# --- the command ----------------------------------------------------------------------------------


def test_predictions_have_the_counts_of_the_evaluation(
    head_run: FinishedRun, images: Path, effnet: Effnet, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.safetensors"
    arguments = ("--at", "specificity=0.7", "--positive", "green", "--save-to", copy)
    done = effnet("evaluate", images, "-m", head_run.folder, "-f", "json", *arguments)
    (point,) = json.loads(done.stdout)["operating_points"]
    done = effnet("predict", images, "-m", copy, "--operating-point", "specificity", "-f", "json")
    counts = dict.fromkeys(COUNTS, 0)
    for row in rows_of(done):
        is_green = Path(row["path"]).parent.name == "green"
        if row["status"] == "error":
            assert "operating_point" not in row
            counts["failed_positives" if is_green else "failed_negatives"] += 1
            counts["false_negatives" if is_green else "false_positives"] += 1
        else:
            is_positive = row["operating_point"]["is_positive"]
            right, sign = is_positive == is_green, "positives" if is_positive else "negatives"
            counts[f"{'true' if right else 'false'}_{sign}"] += 1
            assert (row["predictions"][0]["label"] == "green") is is_positive
    assert counts == {name: point[name] for name in COUNTS}
    assert f"'green' from a probability of {point['threshold']:.15g}." in done.stderr
    assert "Its sensitivity was" in done.stderr


def test_every_format_says_what_was_decided(
    model: Path, images: Path, effnet: Effnet, tmp_path: Path
) -> None:
    one, page = sorted((images / "blue").iterdir())[0], tmp_path / "page.html"
    arguments = ("-m", model, "--operating-point", "sensitivity=0.99")
    (row,) = rows_of(effnet("predict", one, *arguments, "-f", "json", "-k", "1"))
    assert row["predictions"][0]["label"] == "red"
    assert row["operating_point"]["is_positive"] is True
    for name in row["operating_point"]:
        assert f'"{name}"' in docs_page("predict")
    done = effnet("predict", one, *arguments, "--html", page)
    assert "red (positive)" in done.stdout.decode()
    assert "sensitivity=0.99" in page.read_text()
    lines = csv.DictReader(
        io.StringIO(effnet("predict", one, *arguments, "-f", "csv").stdout.decode())
    )
    assert next(lines)["label"] == "red"
    streamed = effnet("predict", images, *arguments[:-1], "ppv=0.99").stdout.decode()
    assert "(negative)" in streamed


def test_files_are_sorted_by_the_decision(
    model: Path, images: Path, effnet: Effnet, tmp_path: Path
) -> None:
    arguments = ("-m", model, "--operating-point", "sensitivity", "--copy-to", tmp_path / "sorted")
    done = effnet("predict", images / "red", *arguments, "-f", "json")
    labels = {row["predictions"][0]["label"] for row in rows_of(done) if row["status"] == "ok"}
    assert {path.name for path in (tmp_path / "sorted").iterdir()} == labels
    assert "broken.png" not in {path.name for path in tmp_path.rglob("*")}


def test_resumed_run_keeps_the_decisions(
    model: Path, images: Path, effnet: Effnet, tmp_path: Path
) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    arguments = ("predict", images, "-m", model, "--operating-point", "sensitivity", "-o")
    assert effnet(*arguments, whole).status == 1  # one image cannot be opened
    folder = images / "red"
    moved = shutil.move(folder, tmp_path / "away")
    journal = Path(f"{part}.part")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("effnet_cli.output.out.Output.rows", _stop)
        assert effnet("predict", images, *arguments[2:], part).status != 0
    shutil.move(moved, folder)
    rows = [json.loads(line) for line in journal.read_text().splitlines()][1:]
    assert rows
    assert all(row["operating_point"]["name"] == "sensitivity=0.99" for row in rows)
    done = effnet(*arguments[:-2], "ppv=0.9", "-o", part, "--resume")
    assert "with --operating-point 'sensitivity'" in done.stderr
    assert effnet(*arguments, part, "--resume").status == 1
    assert part.read_text() == whole.read_text()


def _stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ppv"], "2 operating points 'ppv'.\nUse ppv=0.9 or ppv=0.99."),
        (["npv"], "no operating point 'npv'.\nUse sensitivity=0.99 or ppv=0.9 or ppv=0.99."),
        (["sensitivity", "--unknown-below", "auto"], "cannot be combined with --unknown-below"),
        (["sensitivity", "--unknown-below", "0.5"], "cannot be combined with --unknown-below"),
        (["sensitivity", "--tta", "2"], "cannot be combined with --tta"),
        (["sensitivity", "--fit", "pad"], "was found with --fit crop, not pad"),
    ],
)
def test_option_without_meaning_is_refused(
    arguments: list[str], message: str, model: Path, images: Path, effnet: Effnet
) -> None:
    done = effnet("predict", images, "-m", model, "--operating-point", *arguments)
    assert done.status == 2
    assert done.stdout == b""
    assert message in done.stderr


def test_model_without_points_is_refused_with_the_command_that_finds_them(
    head_run: FinishedRun,
) -> None:
    with pytest.raises(UsageError, match="requires a model that stores one") as caught:
        Classifier(head_run.folder, options=PredictOptions(operating_point="sensitivity"))
    assert "effnet evaluate DATA --model FILE --at sensitivity=0.95" in caught.value.hint


# --- exports --------------------------------------------------------------------------------------


def test_export_decides_as_the_model(
    model: Path, images: Path, effnet: Effnet, tmp_path: Path
) -> None:
    """Also with the softmax inside the file."""
    chosen = ("--operating-point", "sensitivity", "-f", "json")
    expected = rows_of(effnet("predict", images, "-m", model, *chosen))
    for has_softmax in (False, True):
        path = tmp_path / f"{has_softmax}.onnx"
        options = ExportOptions("onnx", include_preprocessing=has_softmax)
        export(ExportTask(ModelOptions(model=model), options, path))
        done = effnet("predict", images, "-m", path, *chosen)
        for row, other in zip(rows_of(done), expected, strict=True):
            assert row["status"] == other["status"]
            if row["status"] == "ok":
                one, two = row["operating_point"], other["operating_point"]
                assert one.pop("probability") == pytest.approx(two["probability"], abs=1e-5)
                assert one == {name: two[name] for name in one}
        assert "Measure it" not in done.stderr


def test_other_precision_is_noted(model: Path, images: Path, effnet: Effnet) -> None:
    one = sorted((images / "blue").iterdir())[0]
    arguments = ("--operating-point", "sensitivity", "--engine", "torch", "-p", "bf16")
    done = effnet("predict", one, "-m", model, *arguments)
    assert "It was found in fp32, and probabilities in bf16 differ." in done.stderr
    assert "--at threshold=0.02 --positive 'red'" in done.stderr
