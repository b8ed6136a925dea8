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
from sklearn.metrics import confusion_matrix, f1_score

from docs_pages import docs_page
from effnet_cli.datasets.labelled import load_labelled
from effnet_cli.evaluate import formats, table
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
from effnet_cli.options import (
    EvaluateTask,
    FinetuneOptions,
    ModelOptions,
    PredictOptions,
)
from effnet_cli.output.charts import curve_chart
from effnet_cli.output.html import sortable
from effnet_cli.output.tables import Table
from effnet_cli.predict.classifier import Classifier
from effnet_cli.predict.gradcam import load_gradcam
from effnet_cli.system.errors import UsageError
from helpers import SAMPLES, RecordingReporter
from training import Done, make_classes, task_of, train, tree

pytestmark = pytest.mark.usefixtures("one_core", "caches", "quick")

Effnet = Callable[..., Done]
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
def found(photos: Path) -> Evaluation:
    return evaluate(EvaluateTask(photos))


def test_figures_are_those_of_the_predictions(photos: Path, found: Evaluation) -> None:
    classifier = Classifier("lite0", options=PredictOptions(5))
    pairs = [(path.parent.name, classifier(path)) for path in sorted(photos.glob("*/*.*"))]
    known = [(label, row) for label, row in pairs if label != "gizmo"]
    answers = [(label, row.predictions[0].label) for label, row in known if row.status == "ok"]
    right = sum(label == answer for label, answer in answers)
    assert (found.images, found.failed, found.unlabelled) == (len(known), 1, 1)
    assert found.top1 == right / len(known)
    among = sum(label in [a.label for a in row.predictions] for label, row in known)
    assert found.top5 == among / len(known)
    assert found.top1_interval[0] < found.top1 < found.top1_interval[1]
    (failed,) = found.failures
    assert (failed.label, failed.kind) == ("tabby", "truncated")
    assert ConfusedPair("tabby", "espresso", 1) in found.confused
    best = max((row.predictions[0].probability, label != row.predictions[0].label)
               for label, row in known if row.status == "ok" and label == "tabby")  # fmt: skip
    assert found.mistakes[0] == LabelledPrediction(
        str(photos / "tabby" / "coffee.jpg"), "tabby", "espresso", pytest.approx(best[0]),
        pytest.approx(found.mistakes[0].label_probability),
    )  # fmt: skip
    assert found.unknown_classes[0].label == "gizmo"
    assert len(found.unused_classes) == 1000 - 4
    assert found.confusion is None  # a thousand classes
    assert found.label_errors is not None


def test_notes_name_classes_that_do_not_match(photos: Path) -> None:
    heard = RecordingReporter()
    evaluate(EvaluateTask(photos), heard)
    assert "Skipping 'gizmo': not a class of this model" in heard.text
    assert "996 of the model's 1,000 classes have no images here" in heard.text
    assert heard.steps[-1] == ("Evaluation", 5, 5)


def test_names_and_wordnet_ids_can_be_mixed(tmp_path: Path) -> None:
    root, heard = tmp_path / "mixed", RecordingReporter()
    for folder, name in (("espresso", "coffee.jpg"), ("n07920052", "coffee.jpg"),
                         ("n04266014", "shuttle.png"), ("missile", "rocket.jpg")):  # fmt: skip
        (root / folder).mkdir(parents=True)
        shutil.copy(SAMPLES / name, root / folder / name)
    found = evaluate(EvaluateTask(root), heard)
    assert found.images == 4
    assert not found.unlabelled
    assert "Matched folders by names and WordNet ids" in heard.text
    assert "'espresso' and 'n07920052' both map to 'espresso' and were merged" in heard.text
    assert found.merged_classes == (MergedClass("espresso", ("espresso", "n07920052")),)


def test_one_image_is_in_the_singular(photos: Path, tmp_path: Path) -> None:
    for folder, name in (("tabby", "broken.jpg"), ("gizmo", "shuttle.png")):
        (tmp_path / "one" / "test" / folder).mkdir(parents=True)
        shutil.copy(photos / folder / name, tmp_path / "one" / "test" / folder / name)
    (tmp_path / "one" / "train").mkdir()
    with pytest.raises(UsageError, match="None of the 1 image can be opened"):
        evaluate(EvaluateTask(tmp_path / "one"))
    shutil.copy(SAMPLES / "cat.jpg", tmp_path / "one" / "test" / "tabby")
    words = " ".join(table.headline(evaluate(EvaluateTask(tmp_path / "one"))))
    assert "of 2 images correctly" in words
    assert "1 image could not be opened and counts as wrong." in words
    assert "Skipped 1 image of unknown classes." in words
    (tmp_path / "one" / "test" / "tabby" / "broken.jpg").unlink()
    words = " ".join(table.headline(evaluate(EvaluateTask(tmp_path / "one"))))
    assert "of 1 image correctly" in words


def test_command_has_formats_and_limits(photos: Path, tmp_path: Path, effnet: Effnet) -> None:
    page, before = tmp_path / "page.html", tree(photos)
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
    assert row == {"label": "espresso", "precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1}
    lines = list(
        csv.DictReader(io.StringIO(effnet("evaluate", photos, "-f", "csv").stdout.decode()))
    )
    assert len(lines) == 1000
    assert tree(photos) == before


def test_json_has_the_documented_keys(found: Evaluation) -> None:
    content = json.loads(json.dumps(formats.as_json(found), allow_nan=False))
    for name in (*content, *content["per_class"][0], *content["mistakes"][0]):
        assert f"`{name}`" in docs_page("evaluate")


def test_page_does_not_replace_the_list_of_images(tmp_path: Path, effnet: Effnet) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(content := f"path,label\n{SAMPLES / 'cat.jpg'},tiger cat\n")
    done = effnet("evaluate", table, "--html", table)
    assert done.status == 2
    assert "is an input and would be overwritten." in done.stderr
    assert table.read_text() == content


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "No such file or folder: 'nowhere'"),
        (["DATA", "--fail-under", "f1=0.5"], "Invalid --fail-under 'f1=0.5'"),
        (["DATA", "--fail-under", "1.5"], "Invalid --fail-under '1.5'"),
        (["DATA", "--split", "val"], "has no split 'val'"),
        (["DATA", "--compare", "b9"], "Unknown variant 'b9'"),
        ([SAMPLES], "images are directly in"),
        (["DATA", "--html", "."], "--html '.' is a folder"),
    ],
)
def test_wrong_use_is_refused(words: list[str], said: str, photos: Path, effnet: Effnet) -> None:
    done = effnet("evaluate", *(photos if word == "DATA" else word for word in words))
    assert done.status == 2
    assert done.stdout == b""
    assert said in done.stderr


def test_limit_on_an_undefined_figure_fails(found: Evaluation) -> None:
    (words,) = check_limits(found, {"auroc": 0.1})
    assert "requires two classes" in words


# --- fine-tuned models ----------------------------------------------------------------------------


def test_model_is_evaluated_on_images_it_was_not_trained_on(
    colours: Path, small: ModelOptions, tmp_path: Path
) -> None:
    ran = train(task_of(colours, small, tmp_path / "run", HEAD_ONLY))
    heard = RecordingReporter()
    found = evaluate(EvaluateTask(colours, ModelOptions(model=ran.folder)), heard)
    assert "6 validation images; 18 images from training excluded" in heard.text
    assert found.images == 6
    assert found.top1 == ran.end.val.top1
    assert found.classes == ran.end.val.classes
    assert found.temperature == ran.card.temperature
    assert found.confusion is not None
    counts = np.array(found.confusion.counts)
    assert counts.sum() == 6
    other = tmp_path / "other"
    make_classes(other, first_seed=100)
    assert evaluate(EvaluateTask(other, ModelOptions(model=ran.folder))).images == 24


def test_training_images_of_the_second_model_are_excluded_too(
    colours: Path, small: ModelOptions, tmp_path: Path
) -> None:
    ran = train(task_of(colours, small, tmp_path / "run", HEAD_ONLY))
    second = train(task_of(colours, small, tmp_path / "second", replace(HEAD_ONLY, seed=5)))
    apart = shutil.copy(second.folder / "model.safetensors", tmp_path / "apart.safetensors")
    found = [
        evaluate(EvaluateTask(colours, ModelOptions(model=ran.folder), compare=other))
        for other in (ModelOptions(model=second.folder), ModelOptions(model=Path(apart)))
    ]
    assert 0 < found[0].images < 6
    one, two = (replace(each.comparison, name="") for each in found if each.comparison)
    assert (found[0].images, found[0].top1, one) == (found[1].images, found[1].top1, two)


def test_figures_equal_scikit_learns_on_a_split(
    small: ModelOptions, tmp_path: Path, effnet: Effnet
) -> None:
    """Also covers classes in another order, and a second model on the same images."""
    root = tmp_path / "data"
    make_classes(root / "train", images=6)
    make_classes(root / "val", images=3, first_seed=50)
    make_classes(root / "test", ["red", "green"], images=7, first_seed=90)
    ran = train(task_of(root, small, tmp_path / "run", HEAD_ONLY))
    second = train(task_of(root, small, tmp_path / "second", replace(HEAD_ONLY, seed=5)))
    done = effnet("evaluate", root, "--model", ran.folder, "--compare", second.folder, "-f", "json")
    content = json.loads(done.stdout)
    assert (content["split"], content["images"]) == ("test", 14)
    names = content["confusion"]["labels"]
    classifier = Classifier(ModelOptions(model=ran.folder))
    paths = sorted((root / "test").glob("*/*"))
    labels = [path.parent.name for path in paths]
    answers = [classifier(path).predictions[0].label for path in paths]
    assert (
        content["confusion"]["counts"] == confusion_matrix(labels, answers, labels=names).tolist()
    )
    present = sorted(set(labels))
    wanted = f1_score(labels, answers, labels=present, average="macro", zero_division=0)
    assert content["macro_f1"] == pytest.approx(wanted)
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


def test_table_with_splits(small: ModelOptions, tmp_path: Path) -> None:
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
    ran = train(task_of(tmp_path / "data", small, tmp_path / "run", HEAD_ONLY))
    other = tmp_path / "other"
    make_classes(other, ["red", "green"], images=4, first_seed=70)
    found = evaluate(EvaluateTask(other, ModelOptions(model=ran.folder)))
    assert found.auroc is not None
    assert 0.5 < found.auroc <= 1.0


# --- unknown --------------------------------------------------------------------------------------


def test_unknown_is_a_prediction(effnet: Effnet, tmp_path: Path, small: ModelOptions) -> None:
    cat = SAMPLES / "cat.jpg"  # tiger cat 39 %
    done = effnet("predict", cat, "--unknown-below", "0.5", "-f", "json", "-k", "3")
    rows = json.loads(done.stdout)[0]["predictions"]
    assert [(row["rank"], row["index"], row["label"]) for row in rows] == [
        (1, None, "unknown"), (2, 282, "tiger cat"), (3, 285, "Egyptian cat"),
    ]  # fmt: skip
    assert rows[0]["probability"] == rows[1]["probability"]
    sure = json.loads(effnet("predict", cat, "--unknown-below", ".3", "-f", "json").stdout)
    assert sure[0]["predictions"][0]["label"] == "tiger cat"
    assert "unknown" in effnet("predict", cat, "--unknown-below", "0.5").stdout.decode()
    assert (
        ",1,,unknown,0.3"
        in effnet("predict", cat, "--unknown-below", "0.5", "-f", "csv").stdout.decode()
    )
    done = effnet("predict", cat, "--unknown-below", "auto")
    assert done.status == 2
    assert "requires a model fine-tuned by effnet" in done.stderr
    assert effnet("predict", cat, "--unknown-below", "x").status == 2


def test_model_has_temperature_and_threshold(
    colours: Path, small: ModelOptions, tmp_path: Path, effnet: Effnet
) -> None:
    ran = train(task_of(colours, small, tmp_path / "run", HEAD_ONLY))
    card = ran.card
    assert card.temperature != 1.0
    assert card.unknown_below is not None
    classifier = Classifier(
        ModelOptions(model=ran.folder), options=PredictOptions(1, unknown_below="auto")
    )
    plain = Classifier(ModelOptions(model=ran.folder), options=PredictOptions(1))
    for path in sorted(colours.glob("*/*")):
        (answer,), (wanted,) = classifier(path).predictions, plain(path).predictions
        is_known = wanted.probability >= card.unknown_below
        assert answer.label == (wanted.label if is_known else "unknown")


# --- the page -------------------------------------------------------------------------------------


def test_page_escapes_names_and_runs_nothing(found: Evaluation, photos: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>\x1b[0m</script>"
    judged = LabelledPrediction(hostile, hostile, hostile, 0.9, 0.1)
    page = evaluation_page(
        replace(
            found,
            model=hostile,
            mistakes=(judged, *found.mistakes),
            label_errors=(judged,),
            failures=(FailedImage(hostile, hostile, "truncated", hostile),),
            classes=[replace(found.classes[0], name=name, images=1) for name in (hostile, "b")],
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
    assert page.count('src="data:image/jpeg;base64,') == len(found.mistakes)
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
    plain, drawn = tmp_path / "plain.html", tmp_path / "drawn.html"
    for page, more in ((plain, []), (drawn, ["--explain"])):
        assert effnet("evaluate", photos, "--html", page, *more).status == 1
    assert "Grad-CAM" in drawn.read_text()
    assert "Grad-CAM" not in plain.read_text()
    assert drawn.read_text().count("base64,") == plain.read_text().count("base64,") > 0
    done = effnet("evaluate", photos, "--explain")
    assert done.status == 2
    assert "Add --html FILE" in done.stderr
    monkeypatch.setattr("effnet_cli.predict.gradcam.GRADCAM_LIBRARY", "no_such_library")
    done = effnet("evaluate", photos, "--explain", "--html", drawn)
    assert done.status == 1
    assert "pip install 'effnet-cli[explain]'" in done.stderr


@pytest.mark.parametrize("tops", [(0.97, 1.0), (1.0, 1.0), (0.0, 1.0)])
def test_curve_ends_at_a_hundred_percent(tops: tuple[float, float]) -> None:
    epochs = [{"top1": top, "phase": "network"} for top in tops]
    texts = re.findall(r"<text[^>]*>([\d.]+)</text>", str(curve_chart(epochs)))
    assert max(map(float, texts)) == 100


def test_table_of_classes_sorts_without_a_script() -> None:
    rows = [["b", 2, "5.0%"], ["a", 10, None], ["c", 1, "40.0%"]]
    table = sortable(Table(["class", "images", "F1"], rows))
    assert [places for _, places in table["rows"]] == [[1, 1, 1], [0, 2, 0], [2, 0, 2]]
    assert table["rows"][1][0] == ["a", "10", "–"]


def test_ten_thousand_rows_stay_small(found: Evaluation) -> None:
    rows = tuple(
        replace(row, name=f"class {number}", images=1, recall=0.5, f1=0.5)
        for row in found.classes[:1]
        for number in range(10_000)
    )
    mistakes = tuple(replace(found.mistakes[0], label=str(i)) for i in range(10_000))
    failed = tuple(FailedImage(f"{i}.jpg", "x", "truncated", "cut") for i in range(10_000))
    page = evaluation_page(replace(found, classes=rows, mistakes=mistakes, failures=failed))
    assert len(page) < 3_000_000
