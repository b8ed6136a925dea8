"""Several labels for an image, from the table to the exported file."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet_cli.datasets.scan import scan
from effnet_cli.models.checkpoint import read_arrays, read_card
from effnet_cli.models.checkpoint import write as write_model
from effnet_cli.options import DatasetOptions, ModelOptions
from training import CommandResult

pytestmark = pytest.mark.usefixtures("one_core", "caches")

Effnet = Callable[..., CommandResult]
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230)}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of squares in up to three colours, and the table of these."""
    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(60):
        names = [name for name in COLOURS if rng.random() < 0.5]
        pixels = rng.integers(90, 130, (96, 96, 3)).astype(np.uint8)
        for place, name in enumerate(names):
            pixels[10:86, 4 + 30 * place : 30 + 30 * place] = COLOURS[name]
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        rows.append({"file": f"{number:02}.png", "labels": names})
    path = folder / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def run(table: Path, small: ModelOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run."""
    from effnet_cli.finetune.run import finetune
    from effnet_cli.options import FinetuneOptions, FinetuneTask

    folder = tmp_path_factory.mktemp("runs") / "squares"
    task = FinetuneTask(
        table,
        model=small,
        dataset=DatasetOptions(multi_label=True),
        options=FinetuneOptions(epochs=2, augment="light"),
        output=folder,
    )
    list(finetune(task))
    return folder


def read_rows(table: Path) -> dict[str, set[str]]:
    rows = map(json.loads, table.read_text().splitlines())
    return {row["file"]: set(row["labels"]) for row in rows}


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_every_form_of_several_labels_is_read_alike(table: Path) -> None:
    folder, rows = table.parent, read_rows(table)
    joined = "".join(f"{file}\t{'|'.join(sorted(names))}\n" for file, names in rows.items())
    one_hot = "".join(f"{file},{','.join(str(int(c in names)) for c in COLOURS)}\n"
                      for file, names in rows.items())  # fmt: skip
    repeated = "".join(f"{file},{name}\n" for file, names in rows.items()
                       for name in names or ["nan"])  # fmt: skip
    coded = "".join(f"{file},{' + '.join(sorted(names))}\n" for file, names in rows.items())
    files = [
        (table, {}),
        (write(folder, "joined.tsv", f"file\tlabel\n{joined}"), {}),
        (write(folder, "one_hot.csv", f"file,{','.join(COLOURS)}\n{one_hot}"), {}),
        (write(folder, "repeated.csv", f"file,label\n{repeated}"), {}),
        (write(folder, "coded.csv", f"file,label\n{coded}"), {"label_separator": "+"}),
    ]
    found = []
    for path, options in files:
        data = scan(path, DatasetOptions(multi_label=True, **options)).require_dataset()  # type: ignore[arg-type]
        assert data.classes == ("blue", "green", "red")
        names = {}
        for part in (data.train, data.val):
            for image, label in zip(part.paths, part.labels, strict=True):
                names[Path(image).name] = set(filter(None, data.name_label(label).split("|")))
        assert names == rows
        found.append((data.fingerprint, [Path(image).name for image in data.val.paths]))
    assert len({fingerprint for fingerprint, _ in found}) == 1
    assert 10 <= len(found[0][1]) <= 14


def test_each_label_is_on_both_sides(table: Path) -> None:
    counts = scan(table, DatasetOptions(multi_label=True)).classes
    rows = read_rows(table)
    for row in counts:
        images = sum(row.name in names for names in rows.values())
        assert row.train + row.val == images
        assert row.val == pytest.approx(0.2 * images, abs=3)


def test_without_the_option_several_labels_are_refused(table: Path, effnet: Effnet) -> None:
    done = effnet("finetune", table, "--check")
    assert done.status == 2
    assert "--multi-label" in done.stdout.decode()


@pytest.mark.parametrize("words", [("--folds", "3"), ("--variant", "auto")])
def test_options_for_one_class_are_refused(
    table: Path, effnet: Effnet, words: tuple[str, ...]
) -> None:
    done = effnet("finetune", table, "--multi-label", *words)
    assert done.status == 2
    assert f"{words[0]}" in done.stderr
    assert "--multi-label" in done.stderr


def test_run_learns_the_labels(run: Path, table: Path, effnet: Effnet) -> None:
    card = read_card(run / "model.safetensors")
    assert card.classes == ("blue", "green", "red")
    assert card.label_scores is not None
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(row["mean_average_precision"] for row in rows) > 0.6  # by chance, about 0.5
    assert "top1" not in rows[0]
    done = effnet("evaluate", table, "-m", run, "-f", "json", "--html", run / "page.html")
    found = json.loads(done.stdout)
    assert (found["multi_label"], found["split"], found["failed"]) == (True, "val", 0)
    assert found["mean_average_precision"] == card.metrics["metrics"]["mean_average_precision"]
    assert [row["name"] for row in found["per_label"]] == list(card.classes)
    assert "Mean average precision" in (run / "page.html").read_text()
    assert effnet("evaluate", table, "-m", run, "--fail-under", "exact=1.0", "-q").status in (0, 3)
    assert effnet("evaluate", table, "-m", run, "--fail-under", "top1=0.1", "-q").status == 3


@pytest.mark.usefixtures("quick")
def test_report_shows_labels(
    table: Path, small: ModelOptions, effnet: Effnet, tmp_path: Path
) -> None:
    words = ("--multi-label", "--head-only", "--model", small.model, "-o", tmp_path / "run")
    done = effnet("finetune", table, *words)
    assert done.status == 0, done.stderr
    page = (tmp_path / "run/report.html").read_text()
    assert "mAP on the validation images" in page
    assert "Mean average precision" in page


def test_predictions_are_the_labels_above_their_thresholds(
    run: Path, table: Path, effnet: Effnet
) -> None:
    done = effnet("predict", table.parent, "-m", run, "-f", "jsonl")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    card = read_card(run / "model.safetensors")
    assert card.label_scores is not None
    limits = dict(zip(card.classes, card.label_scores.thresholds, strict=True))
    truth = read_rows(table)
    right = 0
    for row in rows:
        assert row["multi_label"] is True
        given = [one["label"] for one in row["predictions"]]
        probabilities = [one["probability"] for one in row["predictions"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(one["probability"] >= limits[one["label"]] - 1e-6 for one in row["predictions"])
        right += set(given) == truth[Path(row["path"]).name]
    assert right > 20  # by chance, it would be 7
    csv = effnet("predict", table.parent, "-m", run, "-f", "csv").stdout.decode().splitlines()
    assert len(csv) == 1 + sum(max(1, len(row["predictions"])) for row in rows)
    shown = effnet("predict", table.parent / "00.png", "-m", run, "--html", run / "gallery.html")
    assert shown.status == 0
    assert (run / "gallery.html").exists()


def test_no_label_is_an_answer(run: Path, table: Path, effnet: Effnet, tmp_path: Path) -> None:
    card, arrays = read_arrays(run / "model.safetensors")
    assert card.label_scores is not None
    never = replace(card.label_scores, thresholds=(1.0,) * 3)
    write_model(tmp_path / "never.safetensors", replace(card, label_scores=never), arrays)
    image, model = table.parent / "00.png", ("-m", tmp_path / "never.safetensors")
    (row,) = json.loads(effnet("predict", image, *model, "-f", "json").stdout)
    assert (row["status"], row["multi_label"], row["predictions"]) == ("ok", True, [])
    lines = effnet("predict", image, *model, "-f", "csv").stdout.decode().splitlines()
    assert lines[1] == f"{image},ok,,,,,,"
    shown = effnet("predict", image, *model, "--html", tmp_path / "page.html")
    assert "no label" in shown.stdout.decode()
    assert "no label" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("flag", [("--unknown-below", "0.5"), ("--operating-point", "x")])
def test_options_of_one_class_are_refused_by_predict(
    run: Path, table: Path, effnet: Effnet, flag: tuple[str, str]
) -> None:
    done = effnet("predict", table.parent, "-m", run, *flag)
    assert done.status == 2
    assert "several labels" in done.stderr


@pytest.mark.parametrize(
    "words",
    [("onnx",), ("onnx", "--include-preprocessing"), ("openvino", "--include-preprocessing"),
     ("litert", "--include-preprocessing")],
)  # fmt: skip
def test_exports_give_the_same_labels(
    run: Path, table: Path, effnet: Effnet, tmp_path: Path, words: tuple[str, ...]
) -> None:
    suffix = {"onnx": "onnx", "openvino": "xml", "litert": "tflite"}[words[0]]
    file = tmp_path / f"squares.{suffix}"
    done = effnet("export", "-m", run, "-o", file, "--to", *words)
    assert done.status == 0, done.stderr
    expected, given = (
        [json.loads(line) for line in
         effnet("predict", table.parent, "-m", model, "-f", "jsonl").stdout.splitlines()]
        for model in (run, file)
    )  # fmt: skip
    for one, other in zip(expected, given, strict=True):
        assert [p["label"] for p in one["predictions"]] == [
            p["label"] for p in other["predictions"]
        ]


def test_hub_folders_have_no_place_for_labels(run: Path, effnet: Effnet, tmp_path: Path) -> None:
    done = effnet("export", "-m", run, "-o", tmp_path / "hub", "--to", "hub")
    assert done.status != 0
    assert not (tmp_path / "hub").exists()
