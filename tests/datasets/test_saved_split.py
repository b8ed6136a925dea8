"""The saved split: written by a run, matched by content, without decoding images."""

import collections
import csv
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dataset_files
from dataset_files import fill, make_splits, make_two_classes, png, put, truncated_png
from effnet_cli.datasets.labelled import LabelledImages, load_labelled
from effnet_cli.datasets.records import Dataset
from effnet_cli.datasets.saved_split import (
    AMBIGUOUS,
    NEW,
    exclude_training_images,
    load_split,
    locate_images,
    save_split,
    select_split,
)
from effnet_cli.datasets.scan import scan
from effnet_cli.datasets.split import TRAIN, VAL
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.card import SPLIT_FILE_NAME, ModelCard
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import find_variant
from effnet_cli.options import DatasetOptions, FinetuneOptions, ModelOptions
from effnet_cli.system.errors import UsageError
from helpers import RecordingReporter
from training import CommandResult, make_task, train

RUN = Path("run")


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        monkeypatch.setattr(ImageLoader, "open", None)

    return forbid


def scan_and_save(root: str = "d", seed: int = 0, **options: object) -> Dataset:
    """Scan a dataset and save its split into `run`."""
    dataset = scan(Path(root), DatasetOptions(**options), seed=seed).require_dataset()  # type: ignore[arg-type]
    RUN.mkdir(exist_ok=True)
    save_split(dataset, RUN)
    return dataset


def absolute(paths: Iterable[str]) -> list[str]:
    return [str(Path(path).absolute()) for path in paths]


def card(*classes: str) -> ModelCard:
    base = imagenet_card(find_variant("lite0"))
    split = load_split(RUN)
    about = {"run": split.run} if split else {"train": 1}
    return replace(base, classes=classes or ("cat", "dog"), dataset=about)


def load_and_locate(root: str = "d", model: Path = RUN) -> tuple[LabelledImages, np.ndarray]:
    data = load_labelled(Path(root))
    places = locate_images(data, card(*data.classes), model)
    assert places is not None
    return data, places


def get_evaluation_images(root: str = "d") -> tuple[set[str], str]:
    """Return the images of `root` that a model may be evaluated on, and the note."""
    reporter = RecordingReporter()
    data, places = load_and_locate(root)
    data = exclude_training_images(data, [places], reporter)
    return set(data.paths), reporter.text


@pytest.mark.linux
def test_split_file_lists_each_image_and_is_a_dataset() -> None:
    make_splits(count=100)
    fill("d/test/cat")
    put("d/val/dog/bad.png", truncated_png(1))
    Path("d/val/cat/missing.png").symlink_to("nowhere.png")
    dataset = scan_and_save()
    with (RUN / SPLIT_FILE_NAME).open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["path", "label", "split", "sha256", "run"]
    assert [row["path"] for row in rows] == absolute(dataset.files.paths)
    assert collections.Counter(row["split"] for row in rows) == {
        "train": 200,
        "val": 202,
        "test": 10,
    }
    hashes = {Path(row["path"]).name: row["sha256"] for row in rows}
    assert hashes["missing.png"] == ""
    assert len(hashes["bad.png"]) == 64
    reloaded = scan(RUN / SPLIT_FILE_NAME).require_dataset()
    assert reloaded.classes == dataset.classes
    for one, other in ((reloaded.train, dataset.train), (reloaded.val, dataset.val)):
        assert sorted(one.paths) == sorted(absolute(other.paths))
        assert sorted(one.failed) == sorted(other.failed)
    assert len(load_labelled(RUN / SPLIT_FILE_NAME, "val").labels) == 202


@pytest.mark.linux
def test_names_of_any_bytes_survive() -> None:
    names = [b"caf\xe9", b"a,b\nc\rd", b'"quoted"', b"=cmd()", "é".encode()]
    for name in names:
        fill(b"d/" + name, 5)
    dataset = scan_and_save()
    reloaded = load_labelled(RUN / SPLIT_FILE_NAME, "train")
    assert sorted(map(os.fsencode, reloaded.classes)) == sorted(names)
    assert sorted(reloaded.paths) == sorted(absolute(dataset.train.paths))
    assert (load_and_locate()[1] == VAL).sum() == len(names)


def test_unchanged_dataset_is_located_without_decoding(no_decoding: Callable[[], None]) -> None:
    make_two_classes()
    dataset = scan_and_save()
    no_decoding()
    for model in (RUN, RUN / "model.safetensors"):
        data, places = load_and_locate(model=model)
        for split, subset in ((TRAIN, dataset.train), (VAL, dataset.val)):
            assert set(data.paths.take(np.flatnonzero(places == split))) == set(subset.paths)
    assert get_evaluation_images() == (
        set(dataset.val.paths),
        "4 validation images; 16 images from training excluded",
    )


def test_training_images_are_recognised_after_any_change(no_decoding: Callable[[], None]) -> None:
    make_two_classes()
    dataset = scan_and_save()
    no_decoding()
    train = [Path(path) for path in dataset.train.paths]
    train[0].rename("d/cat/renamed.png")
    shutil.copy(train[1], "d/cat/copy.png")
    train[2].write_bytes(png(900))  # edited in place
    put("d/cat/new.png")
    put("d/dog/new.png")
    Path(dataset.val.paths[0]).unlink()
    shutil.move("d", "moved")
    kept, note = get_evaluation_images("moved")
    val = {path.replace("d/", "moved/", 1) for path in list(dataset.val.paths)[1:]}
    edited = str(train[2]).replace("d/", "moved/", 1)
    assert kept == {*val, "moved/cat/new.png", "moved/dog/new.png", edited}
    assert note == "3 validation images; 3 new images included; 16 images from training excluded"
    shutil.move("moved", "d")
    kept, note = get_evaluation_images()
    assert str(train[2]) not in kept  # an edited training image in its old place
    assert note == "3 validation images; 2 new images included; 17 images from training excluded"


def test_image_in_two_classes_is_excluded() -> None:
    make_two_classes()
    scan_and_save()
    shutil.copy(put("d/cat/new.png"), "d/dog/new.png")
    _, places = load_and_locate()
    assert (places == AMBIGUOUS).sum() == 2
    assert get_evaluation_images()[1].endswith("; 2 images in several classes excluded")


def test_models_split_can_be_selected() -> None:
    make_two_classes()
    dataset = scan_and_save()
    data, places = load_and_locate()
    for name, subset in (("train", dataset.train), ("validation", dataset.val)):
        chosen = select_split(data, [places, None], name)
        assert set(chosen.paths) == set(subset.paths)
        assert chosen.split == ("train" if name == "train" else "val")
    for name, located in (("test", [places]), ("nothing", [places]), ("val", [None])):
        with pytest.raises(UsageError, match=f"'d' has no split '{name}'"):
            select_split(data, located, name)


def test_images_of_another_dataset_are_not_located() -> None:
    make_two_classes()
    make_two_classes("other")
    scan_and_save()
    data = load_labelled(Path("other"))
    assert locate_images(data, card(), RUN) is None
    assert locate_images(load_labelled(Path("d")), replace(card(), dataset={}), RUN) is None


def test_train_folder_without_validation_is_split_too() -> None:
    make_two_classes("d/train")
    dataset = scan_and_save()
    reporter = RecordingReporter()
    data, places = load_and_locate()
    data = exclude_training_images(data, [places], reporter)
    assert (data.split, set(data.paths)) == ("val", set(dataset.val.paths))


def test_training_images_alone_are_refused() -> None:
    make_splits()
    scan_and_save()
    data = load_labelled(Path("d/train"))
    places = locate_images(data, card(), RUN)
    assert places is not None
    with pytest.raises(UsageError, match="trained on all images in 'd/train'"):
        exclude_training_images(data, [None, places])


def test_training_images_of_any_model_are_excluded() -> None:
    make_two_classes()
    data = load_labelled(Path("d"))
    first, second = np.full((2, len(data.paths)), NEW, dtype=np.int8)
    first[:5] = [TRAIN, VAL, VAL, AMBIGUOUS, VAL]
    second[:5] = [VAL, TRAIN, VAL, TRAIN, NEW]
    reporter = RecordingReporter()
    kept = exclude_training_images(data, [first, None, second], reporter)
    assert list(kept.paths) == list(data.paths)[2:3] + list(data.paths)[4:]
    assert reporter.text.startswith("2 validation images; 15 new images included; 3 images from")
    assert exclude_training_images(data, [None, None], reporter) is data


def test_image_of_both_training_and_validation_counts_as_training() -> None:
    make_splits()
    copied = put("d/val/cat/copy.png", Path("d/train/cat/1.png").read_bytes())
    scan_and_save(allow_leak=True)
    data, places = load_and_locate()
    assert places[list(data.paths).index(str(copied))] == TRAIN
    assert (places == VAL).sum() == 20


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it has no column 'path'"),
        (b"path,label\na,b\n", "it has no column 'split'"),
        (b"path,label,split,sha256\na,b,c,d\n", "line 2 is damaged"),
        (b"path,label,split,sha256\na,b,train,00\na,b", "line 3 is damaged"),
        (b'path,label,split,sha256\n"a', "line 1 is damaged"),
    ],
)
def test_damaged_file_is_named(content: bytes, fault: str) -> None:
    RUN.mkdir()
    (RUN / SPLIT_FILE_NAME).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_split(RUN)
    assert caught.value.message == f"'run/split.csv' is not a saved split: {fault}."


def test_a_file_that_is_not_the_split_of_the_model_is_ignored() -> None:
    make_two_classes()
    dataset = scan_and_save()
    data, about = load_labelled(Path("d")), {"fingerprint": dataset.fingerprint}
    about |= {"seed": 0, "val_fraction": 0.2, "run": dataset.fingerprint[:16]}
    other = scan(Path("d"), seed=1).require_dataset()
    model_card = replace(card(), dataset=about)
    shutil.rmtree(RUN)
    for content, reason in (
        (None, "another model"),
        (b"path,label\n", "not written by"),
        (b"", ""),
    ):
        RUN.mkdir(exist_ok=True)
        (RUN / SPLIT_FILE_NAME).unlink(missing_ok=True)
        if content is None:
            save_split(other, RUN)
        else:
            (RUN / SPLIT_FILE_NAME).write_bytes(content)
        reporter = RecordingReporter()
        places = locate_images(data, model_card, RUN, reporter=reporter)
        assert places is not None
        assert set(data.paths.take(np.flatnonzero(places == VAL))) == set(dataset.val.paths)
        assert reporter.text.startswith("Ignoring 'run/split.csv': it ")
        assert reason in reporter.text


def test_split_is_recomputed_without_the_run_folder_or_a_note_says_why_not() -> None:
    make_two_classes()
    dataset = scan_and_save()
    dataset_record = {"fingerprint": dataset.fingerprint, "seed": 0, "val_fraction": 0.2}
    data = load_labelled(Path("d"))
    model_card = replace(card(), dataset=dataset_record)
    places = locate_images(data, model_card, Path("elsewhere/model.safetensors"))
    assert places is not None
    assert set(data.paths.take(np.flatnonzero(places == VAL))) == set(dataset.val.paths)
    put("d/cat/new.png")
    reporter = RecordingReporter()
    data = load_labelled(Path("d"))
    assert (
        locate_images(data, model_card, Path("elsewhere/model.safetensors"), reporter=reporter)
        is None
    )
    assert "Cannot exclude training images" in reporter.text


# --- resumed runs --------------------------------------------------------------------------------


def rescan(seed: int) -> Dataset:
    split = load_split(RUN)
    assert split is not None
    return scan(Path("d"), seed=seed, earlier=split.contents).require_dataset()


@pytest.mark.parametrize("seed", range(3))
def test_resumed_run_never_validates_on_what_it_trained_on(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # other images might be split otherwise once one of them is gone
    monkeypatch.setattr(dataset_files, "seeds", itertools.count())
    make_two_classes(count=20)
    before = scan_and_save(seed=seed)
    for number in range(30):
        put(f"d/cat/new{number}.png")
    after = rescan(seed)
    for one, other in ((after.train, before.train), (after.val, before.val)):
        assert set(one.paths) > set(other.paths)
    Path(before.train.paths[0]).unlink()
    shrunk = rescan(seed)
    save_split(shrunk, RUN)
    split = load_split(RUN)
    assert split is not None
    counts = collections.Counter(split.contents.values())
    assert counts == {TRAIN: len(after.train.paths), VAL: len(after.val.paths)}


def test_resumed_run_refuses_validation_images_that_it_trained_on() -> None:
    make_splits()
    scan_and_save()
    Path("d/train/cat/1.png").rename("d/val/cat/moved.png")
    split = load_split(RUN)
    assert split is not None
    result = scan(Path("d"), DatasetOptions(allow_leak=True), earlier=split.contents)
    (error,) = result.errors()
    assert (error.kind, error.count) == ("already_trained", 1)
    assert error.paths == ("d/val/cat/moved.png",)


# --- one scan ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_core", "caches", "quick")
def test_finetune_decodes_each_image_for_one_scan(
    colours: Path,
    small: ModelOptions,
    effnet: Callable[..., CommandResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scanned: collections.Counter[str] = collections.Counter()
    others: collections.Counter[str] = collections.Counter()
    original_open = ImageLoader.open

    def counted_open(self: ImageLoader, source: object) -> object:
        is_scan = self.preprocessing.crop_px == 64 and self.preprocessing.mean == (0.5, 0.5, 0.5)
        (scanned if is_scan else others)[str(source)] += 1
        return original_open(self, source)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageLoader, "open", counted_open)
    done = effnet("finetune", colours, "--model", small.model, "--head-only", "-o", RUN)
    assert done.status == 0
    assert (RUN / "report.html").exists()
    images = {str(path) for path in colours.glob("*/*")}
    assert scanned == dict.fromkeys(images, 1)
    assert set(others) == images


@pytest.mark.usefixtures("one_core", "caches", "quick")
def test_evaluation_uses_the_validation_images_of_the_run_despite_changes(
    colours: Path, small: ModelOptions, tmp_path: Path, effnet: Callable[..., CommandResult]
) -> None:
    shutil.copytree(colours, "d")
    put("d/red/bad.png", truncated_png(1))
    options = FinetuneOptions(head_only=True)
    run = train(make_task(Path("d"), small, RUN, options, dataset=DatasetOptions(allow_bad=True)))
    assert run.end.val.images == len(load_labelled(RUN / SPLIT_FILE_NAME, "val").labels)
    put("d/green/new.png")
    done = effnet("evaluate", "d", "--model", RUN / "model.safetensors", "-f", "json")
    note = "6 validation images; 1 new image included; 19 images from training excluded"
    assert note in done.stderr
    for split, images in (("val", 6), ("train", 19)):
        done = effnet("evaluate", "d", "--model", RUN, "--split", split, "-f", "json")
        assert (json.loads(done.stdout)["split"], json.loads(done.stdout)["images"]) == (
            split,
            images,
        )
    assert "Evaluating training images" in done.stderr
    done = effnet("evaluate", "d", "--model", RUN, "--split", "test")
    assert "Error: 'd' has no split 'test'." in done.stderr


@pytest.mark.usefixtures("one_core", "caches", "quick")
def test_images_that_the_base_model_was_trained_on_are_counted(
    colours: Path, small: ModelOptions
) -> None:
    options = FinetuneOptions(head_only=True)
    base = train(make_task(colours, small, RUN, options))
    reporter = RecordingReporter()
    for seed in (0, 1):
        task = make_task(colours, ModelOptions(model=base.folder), Path(f"{seed}"), options)
        train(replace(task, options=replace(options, seed=seed)), reporter)
    notes = [note for note in reporter.notes if "used to train the base model" in note]
    assert len(notes) == 1
    assert " of 6 val images were used to train the base model: results on val" in notes[0]


def test_a_saved_split_keeps_any_labels() -> None:
    for name in ("cat", "dog", "cat|dog", " cat"):
        fill(f"d/{name}")
    scan_and_save()
    data = load_labelled(RUN / SPLIT_FILE_NAME, "val")
    assert data.classes == (" cat", "cat", "cat|dog", "dog")
