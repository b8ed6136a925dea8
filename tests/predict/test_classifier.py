"""One row per input, in order, independent of the other images."""

import base64
import gc
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effnet_cli.engines.base import ModelOutputs
from effnet_cli.images.finder import Finder, ImageInput
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.familiarity import Familiarity
from effnet_cli.options import EngineOptions, ModelOptions, PredictOptions
from effnet_cli.predict.classifier import Classifier
from effnet_cli.predict.pipeline import Pipeline
from effnet_cli.predict.ranking import Ranking
from effnet_cli.predict.records import ImageResult
from effnet_cli.system.errors import EffnetError, ImageError, UsageError
from helpers import RGB_CARD, MeanEngine, save_image
from training import FinishedRun

LOADER = ImageLoader(RGB_CARD.preprocessing)


def predicted(
    images: Iterator[ImageInput], engine: MeanEngine, batch_size: int = 1, workers: int = 2
) -> list[ImageResult]:
    pipeline = Pipeline(engine, LOADER.load, batch_size=batch_size, workers=workers)
    return list(pipeline.run(images, Ranking(RGB_CARD, top_k=3)))


def plain_image(folder: Path, name: str, colour: tuple[int, int, int]) -> Path:
    path = folder / name
    Image.new("RGB", (50, 60), colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty files, every fifth of them broken in one of several ways."""
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    wrongs = [b"", b"<html></html>", b"\xff\xd8\xff\xe0 cut", b"\x89PNG\r\n\x1a\n cut"]
    for number in range(40):
        path = tmp_path / f"{number:02}.png"
        if number % 5 == 4:
            path.write_bytes(wrongs[number // 5 % len(wrongs)])
        else:
            plain_image(tmp_path, path.name, colours[number % 3])
    return tmp_path


def test_broken_images_are_not_kept_by_their_errors(folder: Path) -> None:
    # an error holds the frames that raised it, which hold the image, until somebody looks for
    # garbage; and a start looks for it seldom
    predicted(iter(Finder([str(folder)])), MeanEngine())
    gc.collect()
    gc.disable()
    try:
        predicted(iter(Finder([str(folder)] * 3)), MeanEngine())
        assert gc.collect() < 24  # that is less than one object for each broken image
    finally:
        gc.enable()


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (1, 4), (3, 2), (7, 3), (64, 2)])
def test_every_row_is_its_own_images(folder: Path, batch_size: int, workers: int) -> None:
    rows = predicted(iter(Finder([str(folder)])), MeanEngine(), batch_size, workers)
    assert [Path(row.path).name for row in rows] == [f"{number:02}.png" for number in range(40)]
    for number, row in enumerate(rows):
        if number % 5 == 4:
            assert row.status == "error"
            assert row.predictions == ()
        else:
            assert row.status == "ok"
            assert row.predictions[0].label == ("red", "green", "blue")[number % 3]
            assert row.predictions[0].index == number % 3
    assert {row.error.kind for row in rows if row.error} == {"empty", "not_an_image", "truncated"}


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 2), (3, 2), (64, 1)])
def test_each_image_is_familiar_by_its_own_features(
    folder: Path, batch_size: int, workers: int
) -> None:
    red = base64.b64encode(np.array([[127, 0, 0]], np.int8).tobytes()).decode()
    ranking = Ranking(RGB_CARD, top_k=1, familiarity=Familiarity(red, 1, unknown_below=0.9))
    pipeline = Pipeline(MeanEngine(), LOADER.load, batch_size=batch_size, workers=workers)
    rows = list(pipeline.run(iter(Finder([str(folder)])), ranking))
    labels = {n: row.predictions[0].label for n, row in enumerate(rows) if row.status == "ok"}
    assert labels == {n: "unknown" if n % 3 else "red" for n in range(40) if n % 5 != 4}


def test_broken_files_never_reach_the_engine(folder: Path) -> None:
    engine = MeanEngine()
    predicted(iter(Finder([str(folder)])), engine, batch_size=5)
    assert engine.batch_sizes == [4] * 8


def test_probabilities_are_the_softmax_at_the_cards_temperature(tmp_path: Path) -> None:
    path = plain_image(tmp_path, "red.png", (255, 0, 0))
    (row,) = predicted(iter([ImageInput(str(path), str(path))]), MeanEngine())
    expected = np.exp([1.0, 0.0, 0.0]) / np.exp([1.0, 0.0, 0.0]).sum()
    assert [prediction.probability for prediction in row.predictions] == pytest.approx(expected)
    assert [prediction.rank for prediction in row.predictions] == [1, 2, 3]
    assert [prediction.index for prediction in row.predictions] == [
        0,
        1,
        2,
    ]  # equal ones in class order


def test_an_error_that_was_found_before_opening_is_the_row(tmp_path: Path) -> None:
    error = ImageError("not_a_file", "This is a folder.", "Name a file.")
    (row,) = predicted(iter([ImageInput("x", None, error)]), MeanEngine())
    assert row.error is not None
    assert (row.error.kind, row.error.message) == ("not_a_file", "This is a folder. Name a file.")


def test_work_is_done_as_it_is_consumed_and_not_far_ahead(tmp_path: Path) -> None:
    path = str(plain_image(tmp_path, "a.png", (9, 9, 9)))
    taken = itertools.count()

    def endless() -> Iterator[ImageInput]:
        while True:
            yield ImageInput(str(next(taken)), path)

    rows = Pipeline(MeanEngine(), LOADER.load, workers=2).run(endless(), Ranking(RGB_CARD, top_k=1))
    assert [row.path for row in itertools.islice(rows, 500)] == [str(n) for n in range(500)]
    assert next(taken) < 600
    rows.close()


def test_threads_end_when_the_consumer_stops(tmp_path: Path) -> None:
    path = str(plain_image(tmp_path, "a.png", (9, 9, 9)))
    before = set(threading.enumerate())
    inputs = iter([ImageInput("a", path)] * 1000)
    rows = Pipeline(MeanEngine(), LOADER.load, workers=4).run(inputs, Ranking(RGB_CARD, top_k=1))
    next(rows)
    rows.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
    assert set(threading.enumerate()) <= before


def test_an_error_of_the_engine_ends_the_run(tmp_path: Path) -> None:
    path = str(plain_image(tmp_path, "a.png", (9, 9, 9)))

    class NanEngine(MeanEngine):
        def __call__(self, pixels: np.ndarray) -> ModelOutputs:
            return ModelOutputs(np.full((len(pixels), 3), np.nan, dtype=np.float32))

    with pytest.raises(EffnetError, match="NaN"):
        predicted(iter([ImageInput("a", path)]), NanEngine())


def test_an_error_of_the_source_comes_after_the_rows_before_it(tmp_path: Path) -> None:
    path = plain_image(tmp_path, "a.png", (9, 9, 9))
    inputs = iter(Finder([str(path), "@no-list"]))
    rows = Pipeline(MeanEngine(), LOADER.load, workers=2).run(inputs, Ranking(RGB_CARD, top_k=1))
    assert next(rows).status == "ok"
    with pytest.raises(UsageError, match="no-list"):
        next(rows)


def test_classifier_answers_a_path_and_bytes_alike(photo: Path) -> None:
    classifier = Classifier("lite0")
    from_path, from_bytes = classifier(photo), classifier(photo.read_bytes())
    assert from_path.path == str(photo)
    assert from_bytes.path == "-"
    assert from_path.predictions == from_bytes.predictions
    assert len(from_path.predictions) == 5
    assert classifier.card.classes[from_path.predictions[0].index] == from_path.predictions[0].label


def test_classifier_gives_a_bad_image_a_row(tmp_path: Path) -> None:
    row = Classifier()(tmp_path / "missing.jpg")
    assert row.status == "error"
    assert row.error is not None
    assert row.error.kind == "missing"


def test_many_images_answer_as_each_alone(tmp_path: Path) -> None:
    paths = []
    for seed in range(7):
        paths.append(str(tmp_path / f"{seed}.jpg"))
        save_image(Path(paths[-1]), seed)
    alone = [Classifier()(path) for path in paths]
    for batch_size, workers in ((1, 3), (3, 2), (7, 1)):
        options = PredictOptions(batch_size=batch_size, workers=workers)
        rows = list(Classifier(options=options).predict(Finder(paths)))
        assert rows == alone


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        (ModelOptions(variant="b99"), EngineOptions()),
        (ModelOptions(variant="b0", weights="none.pth"), EngineOptions()),
        (ModelOptions(), EngineOptions(device="cuda:x")),
        (ModelOptions(), EngineOptions(engine="onnxruntime", precision="bf16")),
        ("runs/missing", EngineOptions()),
        ("lite99", EngineOptions()),
        (None, EngineOptions()),
        ("lite0", "openvino"),
    ],
)
def test_classifier_refuses_in_words(model: Any, engine: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Classifier(model, engine)
    assert caught.value.message
    assert caught.value.hint


def test_classifier_takes_the_path_of_a_run_as_a_string(head_run: FinishedRun) -> None:
    for model in (str(head_run.folder), ModelOptions(model=str(head_run.folder))):  # type: ignore[arg-type]
        assert Classifier(model).card == head_run.card


def test_image_without_pixels_is_a_row() -> None:
    good = np.zeros((8, 8, 3), np.uint8)
    empty = np.zeros((0, 5, 3), np.uint8)
    rows = list(Classifier("lite0").predict([good, empty, Image.new("L", (3, 0)), good]))
    assert [row.error and row.error.kind for row in rows] == [None, "empty", "empty", None]


def test_paths_folders_images_and_arrays_are_classified_alike(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.png"
    path.parent.mkdir()
    save_image(path, seed=3)
    with Image.open(path) as image:
        image.load()
    pixels = np.asarray(image)
    classifier = Classifier("lite0")
    results = list(
        classifier.predict([path, str(path.parent), path.read_bytes(), image, pixels, "no.jpg"])
    )
    assert [result.path for result in results] == [str(path), str(path), "-", "-", "-", "no.jpg"]
    assert all(result.predictions == results[0].predictions for result in results[:5])
    assert results[5].error is not None and results[5].error.kind == "missing"
    assert list(classifier.predict(path)) == [results[0]]
    assert classifier(pixels).predictions == results[0].predictions


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "I;16", "CMYK"])
def test_images_in_memory_of_any_mode_are_classified(mode: str) -> None:
    image = Image.new("RGB", (40, 30), (200, 100, 50)).convert("L" if mode == "I;16" else mode)
    result = Classifier("lite0")(image.convert(mode) if mode == "I;16" else image)
    assert result.status == "ok"


@pytest.mark.parametrize(
    "wrong", [3, None, np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8)]
)
def test_what_is_no_image_is_a_type_error(wrong: object) -> None:
    with pytest.raises(TypeError, match="Expected"):
        list(Classifier("lite0").predict([wrong]))  # type: ignore[list-item]
