"""Evaluation on labelled images: metrics, held-out images, limits, the page."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score

from docs_pages import docs_page
from effnet_cli.datasets.labelled import load_labelled
from effnet_cli.evaluate import formats, metrics, table
from effnet_cli.evaluate.metrics import check_limits
from effnet_cli.evaluate.page import evaluation_page
from effnet_cli.evaluate.records import (
    ConfusedPair,
    ConfusionMatrix,
    Evaluation,
    FailedImage,
    LabelledPrediction,
    MergedClass,
    UnknownClass,
)
from effnet_cli.evaluate.run import evaluate
from effnet_cli.options import EvaluateTask, FinetuneOptions, ModelOptions, PredictOptions
from effnet_cli.output.charts import curve_chart
from effnet_cli.output.html import sortable
from effnet_cli.output.tables import Table
from effnet_cli.predict.classifier import Classifier
from effnet_cli.predict.gradcam import load_gradcam
from effnet_cli.system.errors import UsageError
from helpers import SAMPLES, RecordingReporter
from training import CommandResult, make_classes, make_task, read_tree, train

pytestmark = pytest.mark.usefixtures("one_core", "caches", "quick")

Effnet = Callable[..., CommandResult]
HEAD_ONLY = FinetuneOptions(head_only=True, hidden=0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sample images in folders: two right, one mislabelled, one broken, one of an unknown class."""
    root = tmp_path_factory.mktemp("photos")
    for folder, name in (
        ("espresso", "coffee.jpg"), ("Egyptian cat", "cat.jpg"), ("missile", "rocket.jpg"),
        ("tabby", "coffee.jpg"), ("gizmo", "shuttle.png"),
    ):  # fmt: skip
        (root / folder).mkdir()
        shutil.copy(SAMPLES / name, root / folder / name)
    (root / "tabby" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return root


@pytest.fixture(scope="module")
def evaluation(photos: Path) -> Evaluation:
    return evaluate(EvaluateTask(photos))


def test_metrics_match_the_predictions(photos: Path, evaluation: Evaluation) -> None:
    classifier = Classifier("lite0", options=PredictOptions(5))
    pairs = [(path.parent.name, classifier(path)) for path in sorted(photos.glob("*/*.*"))]
    known = [(label, row) for label, row in pairs if label != "gizmo"]
    predicted = [(label, row.predictions[0].label) for label, row in known if row.status == "ok"]
    right = sum(label == prediction for label, prediction in predicted)
    assert (evaluation.images, evaluation.failed, evaluation.unlabelled) == (len(known), 1, 1)
    assert evaluation.top1 == right / len(known)
    in_top5 = sum(label in [a.label for a in row.predictions] for label, row in known)
    assert evaluation.top5 == in_top5 / len(known)
    assert evaluation.top1_interval[0] < evaluation.top1 < evaluation.top1_interval[1]
    (failed,) = evaluation.failures
    assert (failed.label, failed.kind) == ("tabby", "truncated")
    assert ConfusedPair("tabby", "espresso", 1) in evaluation.confused
    best = max((row.predictions[0].probability, label != row.predictions[0].label)
               for label, row in known if row.status == "ok" and label == "tabby")  # fmt: skip
    assert evaluation.mistakes[0] == LabelledPrediction(
        str(photos / "tabby" / "coffee.jpg"), "tabby", "espresso", pytest.approx(best[0]),
        pytest.approx(evaluation.mistakes[0].label_probability),
    )  # fmt: skip
    assert evaluation.unknown_classes[0].label == "gizmo"
    assert len(evaluation.unused_classes) == 1000 - 4
    assert evaluation.confusion is None  # too many classes
    assert evaluation.label_errors is not None


def test_notes_list_unmatched_classes(photos: Path) -> None:
    reporter = RecordingReporter()
    evaluate(EvaluateTask(photos), reporter)
    assert "Skipping 'gizmo': not a class of this model" in reporter.text
    assert "996 of the model's 1,000 classes have no images here" in reporter.text
    assert reporter.steps[-1] == ("Evaluation", 5, 5)


def test_names_and_wordnet_ids_can_be_mixed(tmp_path: Path) -> None:
    root, reporter = tmp_path / "mixed", RecordingReporter()
    for folder, name in (("espresso", "coffee.jpg"), ("n07920052", "coffee.jpg"),
                         ("n04266014", "shuttle.png"), ("missile", "rocket.jpg")):  # fmt: skip
        (root / folder).mkdir(parents=True)
        shutil.copy(SAMPLES / name, root / folder / name)
    evaluation = evaluate(EvaluateTask(root), reporter)
    assert evaluation.images == 4
    assert not evaluation.unlabelled
    assert "Matched folders by names and WordNet ids" in reporter.text
    assert "'espresso' and 'n07920052' both map to 'espresso' and were merged" in reporter.text
    assert evaluation.merged_classes == (MergedClass("espresso", ("espresso", "n07920052")),)


def test_one_image_uses_the_singular(photos: Path, tmp_path: Path) -> None:
    for folder, name in (("tabby", "broken.jpg"), ("gizmo", "shuttle.png")):
        (tmp_path / "one" / "test" / folder).mkdir(parents=True)
        shutil.copy(photos / folder / name, tmp_path / "one" / "test" / folder / name)
    (tmp_path / "one" / "train").mkdir()
    with pytest.raises(UsageError, match=r"No image can be opened \(1 image tried\)"):
        evaluate(EvaluateTask(tmp_path / "one"))
    shutil.copy(SAMPLES / "cat.jpg", tmp_path / "one" / "test" / "tabby")
    text = " ".join(table.headline(evaluate(EvaluateTask(tmp_path / "one"))))
    assert "of 2 images correctly" in text
    assert "1 image could not be opened and counts as wrong." in text
    assert "Skipped 1 image of unknown classes." in text
    (tmp_path / "one" / "test" / "tabby" / "broken.jpg").unlink()
    text = " ".join(table.headline(evaluate(EvaluateTask(tmp_path / "one"))))
    assert "of 1 image correctly" in text


def test_command_supports_formats_and_limits(photos: Path, tmp_path: Path, effnet: Effnet) -> None:
    page, before = tmp_path / "page.html", read_tree(photos)
    done = effnet("evaluate", photos, "--html", page, "--fail-under", "0.9,macro_f1=0.01")
    assert done.status == 3
    assert "Check failed: top1 is 0.4000, below 0.9." in done.stderr
    assert "macro_f1 is" not in done.stderr
    assert done.stdout.decode().startswith("lite0 classifies 40.0% of 5 images correctly")
    assert page.stat().st_size > 10_000
    done = effnet("evaluate", photos, "-f", "json", "-q", "--fail-under", "top5=0.1")
    content = json.loads(done.stdout)
    assert done.status == 1  # an image could not be opened
    assert content["schema"] == 1
    assert (content["images"], content["failed"], content["top1"]) == (5, 1, 0.4)
    row = next(row for row in content["per_class"] if row["label"] == "espresso")
    assert row.pop("auroc") == pytest.approx(5 / 6)  # tabby has the same image
    assert row.pop("average_precision") == 0.5
    assert row == {"label": "espresso", "precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1}
    lines = list(
        csv.DictReader(io.StringIO(effnet("evaluate", photos, "-f", "csv").stdout.decode()))
    )
    assert len(lines) == 1000
    assert read_tree(photos) == before


def test_json_has_the_documented_keys(evaluation: Evaluation) -> None:
    content = json.loads(json.dumps(formats.as_json(evaluation), allow_nan=False))
    for name in (*content, *content["per_class"][0], *content["mistakes"][0]):
        assert f"`{name}`" in docs_page("evaluate")


def test_html_does_not_overwrite_the_input(tmp_path: Path, effnet: Effnet) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(content := f"path,label\n{SAMPLES / 'cat.jpg'},tiger cat\n")
    done = effnet("evaluate", table, "--html", table)
    assert done.status == 2
    assert "is an input and would be overwritten." in done.stderr
    assert table.read_text() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "No such file or folder: 'nowhere'"),
        (["DATA", "--fail-under", "f1=0.5"], "Invalid --fail-under 'f1=0.5'"),
        (["DATA", "--fail-under", "=0.5"], "Invalid --fail-under '=0.5'"),
        (["DATA", "--fail-under", "1.5"], "Invalid --fail-under '1.5'"),
        (["DATA", "--split", "val"], "has no split 'val'"),
        (["DATA", "--compare", "b9"], "Unknown variant 'b9'"),
        ([SAMPLES], "images are directly in"),
        (["DATA", "--html", "."], "--html '.' is a folder"),
    ],
)
def test_invalid_usage_is_refused(
    arguments: list[str], message: str, photos: Path, effnet: Effnet
) -> None:
    done = effnet("evaluate", *(photos if word == "DATA" else word for word in arguments))
    assert done.status == 2
    assert done.stdout == b""
    assert message in done.stderr


def test_limit_on_an_undefined_metric_fails(evaluation: Evaluation) -> None:
    (message,) = check_limits(evaluation, {"auroc": 0.1})
    assert "requires two classes" in message


# --- fine-tuned models ----------------------------------------------------------------------------


def test_model_is_evaluated_on_images_it_was_not_trained_on(
    colours: Path, small: ModelOptions, tmp_path: Path
) -> None:
    ran = train(make_task(colours, small, tmp_path / "run", HEAD_ONLY))
    reporter = RecordingReporter()
    evaluation = evaluate(EvaluateTask(colours, ModelOptions(model=ran.folder)), reporter)
    assert "6 validation images; 18 images from training excluded" in reporter.text
    assert evaluation.images == 6
    assert evaluation.top1 == ran.end.val.top1
    assert evaluation.classes == ran.end.val.classes
    assert evaluation.temperature == ran.card.temperature
    assert evaluation.confusion is not None
    counts = np.array(evaluation.confusion.counts)
    assert counts.sum() == 6
    other = tmp_path / "other"
    make_classes(other, first_seed=100)
    assert evaluate(EvaluateTask(other, ModelOptions(model=ran.folder))).images == 24


def test_training_images_of_the_second_model_are_excluded_too(
    colours: Path, small: ModelOptions, tmp_path: Path
) -> None:
    ran = train(make_task(colours, small, tmp_path / "run", HEAD_ONLY))
    second = train(make_task(colours, small, tmp_path / "second", replace(HEAD_ONLY, seed=5)))
    copied = shutil.copy(second.folder / "model.safetensors", tmp_path / "copy.safetensors")
    evaluations = [
        evaluate(EvaluateTask(colours, ModelOptions(model=ran.folder), compare=other))
        for other in (ModelOptions(model=second.folder), ModelOptions(model=Path(copied)))
    ]
    by_folder, by_file = evaluations
    assert 0 < by_folder.images < 6
    one, two = (replace(each.comparison, name="") for each in evaluations if each.comparison)
    assert (by_folder.images, by_folder.top1, one) == (by_file.images, by_file.top1, two)


def test_metrics_equal_scikit_learns_on_a_split(
    small: ModelOptions, tmp_path: Path, effnet: Effnet
) -> None:
    """Also covers classes in another order, and a second model on the same images."""
    root = tmp_path / "data"
    make_classes(root / "train", images=6)
    make_classes(root / "val", images=3, first_seed=50)
    make_classes(root / "test", ["red", "green"], images=7, first_seed=90)
    ran = train(make_task(root, small, tmp_path / "run", HEAD_ONLY))
    second = train(make_task(root, small, tmp_path / "second", replace(HEAD_ONLY, seed=5)))
    done = effnet("evaluate", root, "--model", ran.folder, "--compare", second.folder, "-f", "json")
    content = json.loads(done.stdout)
    assert (content["split"], content["images"]) == ("test", 14)
    names = content["confusion"]["labels"]
    classifier = Classifier(ModelOptions(model=ran.folder))
    paths = sorted((root / "test").glob("*/*"))
    labels = [path.parent.name for path in paths]
    predicted = [classifier(path).predictions[0].label for path in paths]
    assert (
        content["confusion"]["counts"] == confusion_matrix(labels, predicted, labels=names).tolist()
    )
    present = sorted(set(labels))
    expected = f1_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert content["macro_f1"] == pytest.approx(expected)
    assert content["unused_classes"] == ["blue"]
    comparison = content["comparison"]
    assert comparison["name"] == str(second.folder)
    assert comparison["difference"] == pytest.approx(content["top1"] - comparison["top1"])
    val = json.loads(
        effnet("evaluate", root, "-m", ran.folder, "--split", "valid", "-f", "json").stdout
    )
    assert (val["split"], val["images"]) == ("val", 9)
    assert val["top1"] == ran.end.val.top1
    assert effnet("evaluate", root, "-m", ran.folder, "--split", "x").status == 2


def test_csv_file_with_splits(small: ModelOptions, tmp_path: Path) -> None:
    make_classes(tmp_path / "images", images=4)
    paths = sorted((tmp_path / "images").glob("*/*"))
    lines = [f"{p},{p.parent.name},{'val' if i % 4 == 0 else 'train'}" for i, p in enumerate(paths)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["path,label,split", *lines]))
    data = load_labelled(table)
    assert (data.split, len(data.labels), data.classes) == ("val", 3, ("blue", "green", "red"))
    assert len(load_labelled(table, "train").labels) == 9
    with pytest.raises(UsageError, match="has no split 'test'"):
        load_labelled(table, "test")


def test_two_classes_have_an_auroc(small: ModelOptions, tmp_path: Path) -> None:
    make_classes(tmp_path / "data", ["red", "green"], images=6)
    ran = train(make_task(tmp_path / "data", small, tmp_path / "run", HEAD_ONLY))
    other = tmp_path / "other"
    make_classes(other, ["red", "green"], images=4, first_seed=70)
    evaluation = evaluate(EvaluateTask(other, ModelOptions(model=ran.folder)))
    assert evaluation.auroc is not None
    assert 0.5 < evaluation.auroc <= 1.0


# --- unknown --------------------------------------------------------------------------------------


def test_unknown_is_a_prediction(effnet: Effnet, tmp_path: Path, small: ModelOptions) -> None:
    cat = SAMPLES / "cat.jpg"  # tiger cat, 39 %
    done = effnet("predict", cat, "--unknown-below", "0.5", "-f", "json", "-k", "3")
    rows = json.loads(done.stdout)[0]["predictions"]
    assert [(row["rank"], row["index"], row["label"]) for row in rows] == [
        (1, None, "unknown"), (2, 282, "tiger cat"), (3, 285, "Egyptian cat"),
    ]  # fmt: skip
    assert rows[0]["probability"] == rows[1]["probability"]
    confident = json.loads(effnet("predict", cat, "--unknown-below", ".3", "-f", "json").stdout)
    assert confident[0]["predictions"][0]["label"] == "tiger cat"
    assert "unknown" in effnet("predict", cat, "--unknown-below", "0.5").stdout.decode()
    assert (
        ",1,,unknown,0.3"
        in effnet("predict", cat, "--unknown-below", "0.5", "-f", "csv").stdout.decode()
    )
    done = effnet("predict", cat, "--unknown-below", "auto")
    assert done.status == 2
    assert "requires a fine-tuned model that has a threshold" in done.stderr
    assert effnet("predict", cat, "--unknown-below", "x").status == 2


def test_fine_tuned_model_has_temperature_and_threshold(
    colours: Path, small: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = train(make_task(colours, small, tmp_path / "few", HEAD_ONLY))
    assert few.card.unknown_below is None, "six images say nothing about 95 %"
    monkeypatch.setattr(metrics, "MIN_THRESHOLD_PREDICTIONS", 1)
    ran = train(make_task(colours, small, tmp_path / "run", HEAD_ONLY))
    card = ran.card
    assert card.temperature != 1.0
    assert card.unknown_below is not None
    classifier = Classifier(
        ModelOptions(model=ran.folder), options=PredictOptions(1, unknown_below="auto")
    )
    plain = Classifier(ModelOptions(model=ran.folder), options=PredictOptions(1))
    for path in sorted(colours.glob("*/*")):
        (prediction,), (expected,) = classifier(path).predictions, plain(path).predictions
        is_known = expected.probability >= card.unknown_below
        assert prediction.label == (expected.label if is_known else "unknown")


# --- the page -------------------------------------------------------------------------------------


def test_page_escapes_names_and_has_no_scripts(evaluation: Evaluation, photos: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>\x1b[0m</script>"
    prediction = LabelledPrediction(hostile, hostile, hostile, 0.9, 0.1)
    page = evaluation_page(
        replace(
            evaluation,
            model=hostile,
            mistakes=(prediction, *evaluation.mistakes),
            label_errors=(prediction,),
            failures=(FailedImage(hostile, hostile, "truncated", hostile),),
            classes=[
                replace(evaluation.classes[0], name=name, images=1) for name in (hostile, "b")
            ],
            ranking=evaluation.ranking[:2],
            confusion=ConfusionMatrix((hostile, "b"), ((3, 1), (0, 2))),
            unknown_classes=(UnknownClass(hostile, (hostile,)),),
        )
    )
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert page.count("&lt;img src=x onerror") >= 8
    assert "https://" not in page
    assert page.replace("http://www.w3.org/", "").count("http") == 1  # http-equiv
    assert page.count('src="data:image/jpeg;base64,') == len(evaluation.mistakes)
    assert "not opened" in page


def test_page_shows_overlays(
    photos: Path, tmp_path: Path, effnet: Effnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer = load_gradcam(ModelOptions())
    crop = explainer.overlay(str(SAMPLES / "cat.jpg"), "tiger cat")
    other = explainer.overlay(str(SAMPLES / "cat.jpg"), "espresso")
    assert crop is not None
    assert other is not None
    assert (crop.shape, crop.dtype) == ((224, 224, 3), np.uint8)
    assert (crop != other).any()
    assert explainer.overlay(str(photos / "tabby" / "broken.jpg"), "tabby") is None
    plain, explained = tmp_path / "plain.html", tmp_path / "explained.html"
    for page, options in ((plain, []), (explained, ["--explain"])):
        assert effnet("evaluate", photos, "--html", page, *options).status == 1
    assert "Grad-CAM" in explained.read_text()
    assert "Grad-CAM" not in plain.read_text()
    assert explained.read_text().count("base64,") == plain.read_text().count("base64,") > 0
    done = effnet("evaluate", photos, "--explain")
    assert done.status == 2
    assert "Add --html FILE" in done.stderr
    monkeypatch.setattr("effnet_cli.predict.gradcam.GRADCAM_LIBRARY", "no_such_library")
    done = effnet("evaluate", photos, "--explain", "--html", explained)
    assert done.status == 1
    assert "pip install 'effnet-cli[explain]'" in done.stderr


@pytest.mark.parametrize("accuracies", [(0.97, 1.0), (1.0, 1.0), (0.0, 1.0)])
def test_accuracy_axis_ends_at_100_percent(accuracies: tuple[float, float]) -> None:
    epochs = [{"top1": top1, "phase": "full"} for top1 in accuracies]
    labels = re.findall(r"<text[^>]*>([\d.]+)</text>", str(curve_chart(epochs)))
    assert max(map(float, labels)) == 100


def test_class_table_sorts_without_scripts() -> None:
    rows = [["b", 2, "5.0%"], ["a", 10, None], ["c", 1, "40.0%"]]
    table = sortable(Table(["class", "images", "F1"], rows))
    assert [places for _, places in table["rows"]] == [[1, 1, 1], [0, 2, 0], [2, 0, 2]]
    assert table["rows"][1][0] == ["a", "10", "–"]


def test_page_with_many_rows_stays_small(evaluation: Evaluation) -> None:
    rows = tuple(
        replace(row, name=f"class {number}", images=1, recall=0.5, f1=0.5)
        for row in evaluation.classes[:1]
        for number in range(10_000)
    )
    mistakes = tuple(replace(evaluation.mistakes[0], label=str(i)) for i in range(10_000))
    failed = tuple(FailedImage(f"{i}.jpg", "x", "truncated", "cut") for i in range(10_000))
    page = evaluation_page(
        replace(
            evaluation,
            classes=rows,
            ranking=evaluation.ranking[:1] * len(rows),
            mistakes=mistakes,
            failures=failed,
        )
    )
    assert len(page) < 3_000_000


def test_calibrated_copy_has_the_same_predictions_and_honest_probabilities(
    effnet: Callable[..., CommandResult], tmp_path: Path
) -> None:
    data, copy = tmp_path / "data", tmp_path / "calibrated.safetensors"
    for label, name in (("espresso", "coffee"), ("missile", "rocket")):
        (data / label).mkdir(parents=True)
        with Image.open(SAMPLES / f"{name}.jpg") as image:
            for size in range(30):
                small = image.convert("RGB").resize((120 + 9 * size, 150 + 5 * size))
                small.save(data / label / f"{size}.png")
    done = effnet("evaluate", data, "--calibrate-to", copy, "--format", "json")
    assert done.status == 0, done.stderr
    before = json.loads(done.stdout)
    found = re.search(r"error (\d+\.\d)% before, (\d+\.\d)% after \(cross-validated\)", done.stderr)
    assert found is not None
    assert float(found[1]) == pytest.approx(100 * before["ece"], abs=0.1)
    assert float(found[2]) < float(found[1])
    after = json.loads(effnet("evaluate", data, "--model", copy, "--format", "json").stdout)
    assert after["top1"] == before["top1"]
    assert after["loss"] == pytest.approx(before["loss"])  # of the logits
    assert after["ece"] < before["ece"]
    assert after["temperature"] != before["temperature"] == 1
    cat = SAMPLES / "cat.jpg"
    assert "not calibrated" in effnet("predict", cat).stderr
    assert "not calibrated" not in effnet("predict", cat, "--model", copy).stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.onnx", "does not end in .safetensors"),
        ("here.safetensors", "already exists"),
        ("new.safetensors", "labelled images are too few"),
    ],
)
def test_calibration_is_refused(
    name: str, message: str, effnet: Callable[..., CommandResult], tmp_path: Path
) -> None:
    (tmp_path / "here.safetensors").write_text("mine")
    (tmp_path / "data" / "espresso").mkdir(parents=True)
    shutil.copy(SAMPLES / "coffee.jpg", tmp_path / "data" / "espresso")
    done = effnet("evaluate", tmp_path / "data", "--calibrate-to", tmp_path / name)
    assert done.status == 2
    assert message in done.stderr
    assert not (tmp_path / "new.safetensors").exists()
    assert (tmp_path / "here.safetensors").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("b0.ns", ModelOptions(variant="b0.ns")),
        ("lite0", ModelOptions(variant="lite0")),
        ("runs/nope", ModelOptions(model=Path("runs/nope"))),
        ("hf://timm/x.y", ModelOptions(model=Path("hf://timm/x.y"))),
    ],
)
def test_models_to_compare_are_variants_or_paths(text: str, options: ModelOptions) -> None:
    assert ModelOptions.parse(text) == options
