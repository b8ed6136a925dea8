"""`finetune` from the images to the answers of `predict`: real weights, small images."""

import csv
import errno
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from effnet_cli.datasets import DatasetRefused, require_dataset, scan
from effnet_cli.engines.base import Engine
from effnet_cli.engines.registry import EnginePlan, plan_engine
from effnet_cli.finetune import phases
from effnet_cli.finetune.run import finetune
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models import checkpoint
from effnet_cli.models.lite import EfficientNetLite
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import (
    DatasetOptions,
    EngineOptions,
    FinetuneOptions,
    ImageOptions,
    ModelOptions,
)
from effnet_cli.predict.classifier import Classifier
from effnet_cli.system.errors import EffnetError, UsageError
from helpers import RecordingReporter, Run
from training import (
    HEAD_EPOCHS,
    Done,
    Ran,
    go_on,
    kept_state,
    make_classes,
    rows_of,
    save_blobs,
    task_of,
    timeless,
    train,
    tree,
)

pytestmark = pytest.mark.usefixtures("one_core", "caches")

ODD_NAMES = ("[red]", "=cmd()", "new\nline", "a,b", "\udcff\udcfe", "🐈 <b>", "-x '\"")
ONE_EPOCH = FinetuneOptions(epochs=1, hidden=0)
HEAD_ONLY = FinetuneOptions(head_only=True, hidden=0, augment="none")
CANNOT_LEARN = 1e-30  # a learning rate


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- a run as people start it -----------------------------------------------------------------


@pytest.fixture(scope="module")
def default_run(
    colours: Path, session_folder: Path, one_core: object, caches: None
) -> tuple[Path, "subprocess.CompletedProcess[bytes]"]:
    """`effnet finetune DATASET --epochs 1`, in a folder of its own, with pipes for a terminal."""
    here = session_folder / "default run"
    here.mkdir()
    before = tree(colours)
    done = subprocess.run(
        [sys.executable, "-m", "effnet_cli", "finetune", colours, "-n", "1", "-f", "jsonl"],
        capture_output=True,
        cwd=here,
        timeout=100,
        check=False,
    )
    assert tree(colours) == before
    return here, done


def test_default_run_gives_its_epochs_and_nothing_else_on_stdout(
    default_run: tuple[Path, "subprocess.CompletedProcess[bytes]"],
) -> None:
    here, done = default_run
    assert done.returncode == 0, done.stderr.decode()
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [(row["row"], row["phase"], row["epoch"]) for row in rows[:-1]]
    head = [("epoch", "head", number) for number in range(1, phases.HEAD_EPOCHS + 1)]
    assert kinds == [*head, ("epoch", "network", 1)]
    assert rows[-1]["row"] == "trained"
    assert rows[-1]["model"] == "runs/colours-lite0/model.safetensors"
    assert rows[-1]["test"] is None
    assert rows[-1]["val"]["images"] == 6
    assert {path.name for path in (here / "runs" / "colours-lite0").iterdir()} - {".lock"} == {
        "model.safetensors",
        "state.safetensors",
        "metrics.jsonl",
        "options.json",
        "report.html",
    }


def test_default_run_learns_and_keeps_its_best_epoch(
    default_run: tuple[Path, "subprocess.CompletedProcess[bytes]"],
) -> None:
    here, done = default_run
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    epochs, end = rows[:-1], rows[-1]
    best = max(epochs, key=lambda row: (row["top1"], -row["val_loss"]))
    assert (end["phase"], end["epoch"]) == (best["phase"], best["epoch"])
    assert [row for row in epochs if row["is_best"]][-1] == best
    assert end["val"]["top1"] == best["top1"] == 1.0  # the colours are easily told apart
    assert end["val"]["loss"] == best["val_loss"]
    folder = here / "runs" / "colours-lite0"
    assert rows_of(folder) == [{k: v for k, v in row.items() if k != "row"} for row in epochs]


def test_default_runs_model_file_says_how_it_was_made(
    default_run: tuple[Path, "subprocess.CompletedProcess[bytes]"], colours: Path
) -> None:
    here, done = default_run
    end = json.loads(done.stdout.splitlines()[-1])
    folder = here / "runs" / "colours-lite0"
    card, tensors = checkpoint.read_arrays(folder / "model.safetensors")
    base = resolve_model(ModelOptions())
    assert card.variant == "lite0"
    assert card.classes == ("blue", "green", "red")
    assert card.preprocessing == replace(base.card.preprocessing, resize_px=224)
    assert card.preprocessing.crop_px == 224
    assert card.options == {**asdict(FinetuneOptions(epochs=1)), "base_sha256": base.sha256}
    dataset = require_dataset(scan(colours))
    assert card.dataset == {
        "fingerprint": dataset.fingerprint,
        "seed": 0,
        "val_fraction": 0.2,
        "train": 18,
        "val": 6,
        "test": None,
    }
    assert card.metrics == {
        "phase": end["phase"],
        "epoch": end["epoch"],
        "metrics": {**end["val"]},
    }
    assert tensors["classifier.4.weight"].shape == (3, 512)
    options = json.loads((folder / "options.json").read_text())
    assert options["root"] == str(colours)
    assert options["options"]["epochs"] == 1


def test_default_run_ends_with_a_page_about_its_model(
    default_run: tuple[Path, "subprocess.CompletedProcess[bytes]"],
) -> None:
    here, _ = default_run
    page = (here / "runs" / "colours-lite0" / "report.html").read_text(encoding="utf-8")
    assert "classifies 100.0% of 6 images correctly" in page
    assert "The classifier alone, before the whole network learned" in page
    assert page.count("<svg") == 2  # the curve and the reliability
    assert "effnet evaluate FOLDER --model runs/colours-lite0" in page
    assert "weight decay" in page
    choices = dict(re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", page))
    words = [choices[name] for name in ("balance", "batch size", "patience")]
    assert words == ["no", "auto", "no limit"]


def test_default_run_ends_with_the_command_that_uses_it(
    default_run: tuple[Path, "subprocess.CompletedProcess[bytes]"], run: Run, colours: Path
) -> None:
    here, done = default_run
    page, *_, one, two, three = done.stderr.decode().splitlines()[-5:]
    assert page.startswith("runs/colours-lite0/report.html shows")
    for line, command in (
        (one, "predict IMAGE"), (two, "evaluate FOLDER"), (three, "export --to onnx")
    ):  # fmt: skip
        assert line == f"  effnet {command} --model runs/colours-lite0"
    assert "\r" not in done.stderr.decode()  # no bars without a terminal
    for model in ("runs/colours-lite0", "runs/colours-lite0/model.safetensors"):
        answered = run(
            "predict", colours / "red" / "0.jpg", "--model", model, "-f", "json", cwd=here
        )
        (row,) = json.loads(answered.stdout)
        assert row["predictions"][0]["label"] == "red"
        assert len(row["predictions"]) == 3


@pytest.mark.usefixtures("quick")
def test_formats_on_stdout(
    colours: Path, small: ModelOptions, tmp_path: Path, effnet: Callable[..., Done]
) -> None:
    found = {}
    for format_ in ("table", "json", "csv"):
        done = effnet(
            *("finetune", colours, "--model", small.model, "--head-only", "--hidden", "0"),
            *("--augment", "none", "-o", tmp_path / format_, "-f", format_, "--quiet"),
        )
        assert done.status == 0
        assert done.stderr == ""
        found[format_] = done.stdout.decode()
    array = json.loads(found["json"])
    assert [row["row"] for row in array] == ["epoch"] * HEAD_EPOCHS + ["trained"]
    assert timeless(array[:-1]) == [
        {"row": "epoch", **r} for r in timeless(rows_of(tmp_path / "json"))
    ]
    lines = list(csv.DictReader(io.StringIO(found["csv"])))
    assert [float(line["top1"]) for line in lines] == [row["top1"] for row in array[:-1]]
    table = found["table"].splitlines()
    assert (
        len([line for line in table if re.match(rf"  head +\d/{HEAD_EPOCHS} ", line)])
        == HEAD_EPOCHS
    )
    assert any(line.startswith("validation: top-1") for line in table)
    assert "\x1b" not in found["table"]


# --- what was learned answers -----------------------------------------------------------------


@pytest.fixture(scope="module")
def odd_run(small: ModelOptions, session_folder: Path, one_core: object) -> tuple[Path, Ran]:
    """Classes with names of all kinds, and what was learned of them."""
    root = session_folder / "odd"
    make_classes(root, ODD_NAMES, images=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "MAX_VIEWS", 1)
        return root, train(task_of(root, small, session_folder / "odd run", HEAD_ONLY))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
def test_every_engine_answers_with_the_users_classes(
    odd_run: tuple[Path, Ran], engine: Any
) -> None:
    root, ran = odd_run
    classifier = Classifier(ModelOptions(model=ran.folder), EngineOptions(engine=engine))
    assert set(classifier.card.classes) == set(ODD_NAMES)
    val = require_dataset(scan(root)).val
    answers = [classifier(val.paths[i]).predictions[0] for i in range(len(val.labels))]
    assert {answer.label for answer in answers} <= set(ODD_NAMES)
    right = np.mean([a.index == label for a, label in zip(answers, val.labels, strict=True)])
    assert right == pytest.approx(ran.end.val.top1)


def test_odd_names_come_out_as_they_are(
    odd_run: tuple[Path, Ran], effnet: Callable[..., Done]
) -> None:
    root, ran = odd_run
    for model in (ran.folder, ran.folder / "model.safetensors"):
        done = effnet(
            *("predict", root / "[red]", "--model", model, "-f", "jsonl", "-k", "7", "--quiet")
        )
        assert done.status == 0
        for line in done.stdout.splitlines():
            labels = {answer["label"] for answer in json.loads(line)["predictions"]}
            assert labels == set(ODD_NAMES)
    table = effnet("predict", root / "[red]", "--model", ran.folder).stdout.decode()
    assert "new\nline" not in table


def test_validation_and_predict_see_the_same_bits(
    colours: Path, small: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    seen: list[tuple[bytes, bytes]] = []
    load = EnginePlan.load

    def spied(plan: EnginePlan, *arguments: Any) -> Engine:
        engine = load(plan, *arguments)

        def answer(crops: np.ndarray) -> np.ndarray:
            logits = engine(crops)
            seen.extend((p.tobytes(), q.tobytes()) for p, q in zip(crops, logits, strict=True))
            return logits

        return answer  # type: ignore[return-value]

    monkeypatch.setattr(EnginePlan, "load", spied)
    monkeypatch.setattr(phases.HeadPhase, "lr", CANNOT_LEARN)  # so that the whole network is better
    options = replace(ONE_EPOCH, augment="none", epochs=2, lr=1e-3)
    *epochs, _end = finetune(task_of(colours, small, tmp_path / "run", options))
    best = [epoch for epoch in epochs if epoch.is_best][-1]  # type: ignore[union-attr]
    asked = seen[-6:] if best == epochs[-1] else seen[-12:-6]  # by the best epoch's validation
    card = checkpoint.read_card(tmp_path / "run" / "model.safetensors")
    loader = ImageLoader(card.preprocessing)
    val = require_dataset(scan(colours)).val
    crops = [loader.load(val.paths[i])[0] for i in range(len(val.labels))]
    assert [crop.tobytes() for crop in crops] == [given for given, _ in asked]
    assert card.metrics["phase"] == "network"
    network = resolve_model(ModelOptions(model=tmp_path / "run"))
    engine = load(plan_engine(EngineOptions()), network)
    for given, (_, logits) in zip(crops, asked, strict=True):
        assert engine(given[None])[0].tobytes() == logits


# --- the same again ---------------------------------------------------------------------------


def test_seeds_and_workers(colours: Path, small: ModelOptions, tmp_path: Path, quick: None) -> None:
    def digest(name: str, seed: int, workers: int) -> str:
        options = replace(ONE_EPOCH, seed=seed, augment="strong")
        task = task_of(
            colours, small, tmp_path / name, options, workers=workers, dataset=DatasetOptions()
        )
        ran = train(task)
        states[name] = timeless(ran.rows)
        return sha(ran.model) + sha(
            kept_state(ran.folder)[1]["network.features.0.0.weight"].tobytes()
        )

    states: dict[str, Any] = {}
    first = digest("a", 0, 1)
    assert digest("b", 0, 3) == first
    assert states["b"] == states["a"]
    assert digest("c", 1, 1) != first
    assert states["c"] != states["a"]


def test_seed_draws_the_split_too(
    colours: Path, tmp_path: Path, effnet: Callable[..., Done]
) -> None:
    def names(seed: int) -> set[str]:
        val = require_dataset(scan(colours, seed=seed)).val
        return {str(val.paths[i]) for i in range(len(val.labels))}

    assert names(0) == names(0) != names(1)


# --- memory and disk --------------------------------------------------------------------------


class NoDropout(nn.Dropout):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input


def limit_memory(patch: pytest.MonkeyPatch, limit: int, error: Callable[[], Exception]) -> None:
    """The network in training has memory for `limit` images at once."""
    forward = EfficientNetLite.forward

    def limited(self: EfficientNetLite, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > limit:
            raise error()
        return forward(self, x)

    patch.setattr(EfficientNetLite, "forward", limited)


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory."),
        lambda: RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
    ],
    ids=["cuda", "cpu"],
)
def test_small_memory_learns_the_same_in_pieces(
    error: Callable[[], Exception],
    colours: Path,
    small: ModelOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quick: None,
) -> None:
    monkeypatch.setattr(nn.Dropout, "forward", NoDropout.forward)
    # gently, for Adam makes whole steps of the noise in tiny gradients
    options = replace(ONE_EPOCH, lr=1e-6, batch_size=9)
    whole = train(task_of(colours, small, tmp_path / "whole", options))
    limit_memory(monkeypatch, 3, error)
    heard = RecordingReporter()
    pieces = train(task_of(colours, small, tmp_path / "pieces", options), heard)
    assert "Memory is too small for 9 images at once: 4 now" in heard.text
    assert "Memory is too small for 4 images at once: 2 now" in heard.text
    assert kept_state(pieces.folder)[0]["piece_size"] == 2
    (one,), (other,) = whole.of_phase("network"), pieces.of_phase("network")
    assert other.loss == pytest.approx(one.loss, rel=1e-4)
    assert other.val_loss == pytest.approx(one.val_loss, rel=1e-4)
    moved = 0
    (_, before), (_, after) = kept_state(whole.folder), kept_state(pieces.folder)
    start = checkpoint.read_arrays(small.model / "model.safetensors")[1]  # type: ignore[operator]
    for name, value in after.items():
        if name.startswith("network.features"):
            np.testing.assert_allclose(value, before[name], atol=5e-6)
            moved += not np.array_equal(value, start[name.removeprefix("network.")])
    assert moved > 50
    resumed = go_on(pieces.folder, heard)  # the size of the pieces is remembered
    assert resumed.model == pieces.model


def test_no_memory_for_one_image_ends_with_the_classifier_kept(
    colours: Path, small: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    limit_memory(monkeypatch, 0, lambda: torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(EffnetError, match="no memory for 1 images at once") as caught:
        train(task_of(colours, small, tmp_path / "run", ONE_EPOCH))
    assert "--batch-size" in caught.value.hint
    assert checkpoint.read_card(tmp_path / "run" / "model.safetensors").metrics["phase"] == "head"


def fill_disk(patch: pytest.MonkeyPatch) -> None:
    """From now on a file takes half of what is written into it."""
    write_bytes = Path.write_bytes

    def write_half(self: Path, content: bytes) -> int:
        write_bytes(self, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    def write_text(self: Path, content: str, encoding: str | None = None) -> int:
        return write_half(self, content.encode())

    patch.setattr(Path, "write_bytes", write_half)
    patch.setattr(Path, "write_text", write_text)


def test_full_disk_keeps_the_last_good_files_and_says_so(
    colours: Path, small: ModelOptions, tmp_path: Path, quick: None
) -> None:
    options = replace(ONE_EPOCH, epochs=2)
    unbroken = train(task_of(colours, small, tmp_path / "unbroken", options))
    folder = tmp_path / "run"
    records = finetune(task_of(colours, small, folder, options))
    next(record for record in records if getattr(record, "phase", "") == "network")
    before = tree(folder)
    with pytest.MonkeyPatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(EffnetError, match=r"Cannot write .*: No space left") as caught:
            next(records)
    assert str(folder) in caught.value.message
    assert tree(folder) == before  # no half file either
    assert checkpoint.read_arrays(folder / "model.safetensors")[0].classes
    resumed = go_on(folder)  # once there is room again
    assert resumed.model == unbroken.model
    assert timeless(resumed.rows) == timeless(unbroken.rows)


# --- images ---------------------------------------------------------------------------------


def test_images_that_break_after_the_scan_are_left_out_and_said(
    small: ModelOptions, tmp_path: Path, quick: None
) -> None:
    root = tmp_path / "data"
    make_classes(root / "train", images=6)
    make_classes(root / "val", images=2, first_seed=50)
    gone = [root / "train" / "red" / "0.jpg", root / "val" / "green" / "50.jpg"]
    broken = [root / "train" / "blue" / "1.png", root / "val" / "green" / "51.png"]

    def harm(note: str) -> None:
        if note.startswith("Starts from"):
            for path in gone:
                path.unlink()
            for path in broken:
                path.write_bytes(path.read_bytes()[:-300])

    heard = RecordingReporter(hook=harm)
    ran = train(task_of(root, small, tmp_path / "run", ONE_EPOCH), heard)
    for path in gone + broken:
        assert heard.text.count(f"Left out: {path}:") == 1
    val = ran.end.val
    assert (val.images, val.failed) == (6, 2)
    recalls = {row.name: row.recall for row in val.classes}
    assert recalls["green"] == 0.0
    assert val.top1 <= 4 / 6
    (row,) = ran.of_phase("network")
    assert row.loss < 20


def test_broken_validation_images_count_as_wrong(
    small: ModelOptions, tmp_path: Path, quick: None
) -> None:
    root = tmp_path / "data"
    make_classes(root / "train", images=6)
    make_classes(root / "val", images=3, first_seed=50)
    (root / "val" / "red" / "51.png").write_bytes(b"")
    before = tree(root)
    with pytest.raises(DatasetRefused, match="cannot be opened"):
        train(task_of(root, small, tmp_path / "refused", HEAD_ONLY))
    assert not (tmp_path / "refused").exists()
    allowed = DatasetOptions(allow_bad=True)
    ran = train(task_of(root, small, tmp_path / "run", HEAD_ONLY, dataset=allowed))
    assert (ran.end.val.images, ran.end.val.failed) == (9, 1)
    assert ran.end.val.top1 <= 8 / 9
    assert tree(root) == before


def test_test_images_are_asked_once_at_the_end(
    small: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    root = tmp_path / "data"
    make_classes(root / "train", images=6)
    make_classes(root / "val", images=2, first_seed=50)
    make_classes(root / "test", images=3, first_seed=90)
    opened: list[str] = []
    open_image = ImageLoader.open

    def spied(loader: ImageLoader, path: Any) -> Any:
        opened.append(str(path))
        return open_image(loader, path)

    def of_test() -> list[str]:
        return [path for path in opened if "/test/" in path.replace(os.sep, "/")]

    heard = RecordingReporter(
        hook=lambda note: opened.clear() if note.startswith("Starts") else None
    )
    monkeypatch.setattr(ImageLoader, "open", spied)
    records = finetune(task_of(root, small, tmp_path / "run", ONE_EPOCH), heard)
    for record in records:
        if hasattr(record, "model"):
            break
        assert opened
        assert not of_test()
    assert len(of_test()) == len(set(of_test())) == 9
    assert record.test.images == 9  # type: ignore[union-attr]
    assert record.val.images == 6  # type: ignore[union-attr]
    assert checkpoint.read_card(record.model).dataset["test"] == 9  # type: ignore[union-attr]
    classifier = Classifier(ModelOptions(model=tmp_path / "run"))
    right = [classifier(p).predictions[0].label == Path(p).parent.name for p in of_test()]
    assert record.test.top1 == pytest.approx(np.mean(right))  # type: ignore[union-attr]


# --- numbers that go wrong --------------------------------------------------------------------


def test_loss_that_explodes_is_said_and_the_best_is_kept(
    colours: Path, small: ModelOptions, tmp_path: Path, effnet: Callable[..., Done], quick: None
) -> None:
    done = effnet(
        *("finetune", colours, "--model", small.model, "--hidden", "0", "--lr", "1e30", "-n", "2"),
        *("-o", tmp_path / "run", "-f", "jsonl"),
    )
    assert done.status == 1
    assert "the learning rate 1e+30 is too high" in done.stderr
    assert "Use a smaller --lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == HEAD_EPOCHS
    row = Classifier(ModelOptions(model=tmp_path / "run"))(colours / "red" / "0.jpg")
    assert len(row.predictions) == 3


# --- options ----------------------------------------------------------------------------------


@pytest.fixture
def ran_with(
    colours: Path, small: ModelOptions, tmp_path: Path, quick: None
) -> Callable[..., tuple[Ran, RecordingReporter]]:
    """A quick run with some options changed, and what it said."""

    def ran(options: FinetuneOptions, **changes: Any) -> tuple[Ran, RecordingReporter]:
        heard = RecordingReporter()
        base, root = changes.pop("model", small), changes.pop("root", colours)
        output = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        return train(task_of(root, base, output, options, **changes), heard), heard

    return ran


RanWith = Callable[..., tuple[Ran, RecordingReporter]]


def changed(ran: Ran, small: ModelOptions) -> set[str]:
    """The tensors of the network in training that are not those of the pretrained one."""
    start = checkpoint.read_arrays(small.model / "model.safetensors")[1]  # type: ignore[operator]
    state = kept_state(ran.folder)[1]
    return {
        name
        for name, value in start.items()
        if name.startswith("features") and not np.array_equal(value, state[f"network.{name}"])
    }


def test_head_only_and_hidden(ran_with: RanWith, small: ModelOptions) -> None:
    start = checkpoint.read_arrays(small.model / "model.safetensors")[1]  # type: ignore[operator]
    for hidden, shapes in (
        (0, {"classifier.1.weight": (3, 1280)}),
        (16, {"classifier.1.weight": (16, 1280), "classifier.4.weight": (3, 16)}),
    ):
        ran, _ = ran_with(replace(HEAD_ONLY, hidden=hidden))
        assert {epoch.phase for epoch in ran.epochs} == {"head"}
        tensors = ran.tensors
        found = {n: v.shape for n, v in tensors.items() if n.startswith("classifier")}
        assert {n: s for n, s in found.items() if n.endswith("weight")} == shapes
        for name, value in tensors.items():
            if name.startswith("features"):
                assert np.array_equal(value, start[name])


def test_freeze(ran_with: RanWith, small: ModelOptions) -> None:
    ran, _ = ran_with(replace(ONE_EPOCH, freeze=5))
    stages = {int(name.split(".")[1]) for name in changed(ran, small)}
    assert stages == {5, 6, 7, 8}
    ran, _ = ran_with(ONE_EPOCH)
    stages = {int(name.split(".")[1]) for name in changed(ran, small)}
    assert stages == set(range(9))
    statistics = [name for name in changed(ran, small) if "running" in name]
    assert not statistics


def test_augment_makes_other_views(ran_with: RanWith) -> None:
    losses = {}
    for augment in ("none", "light", "strong"):
        ran, _ = ran_with(replace(ONE_EPOCH, augment=augment))
        losses[augment] = ran.epochs[-1].loss
    assert len(set(losses.values())) == 3


def test_balance_chooses_by_balanced_accuracy(ran_with: RanWith, tmp_path: Path) -> None:
    root = tmp_path / "uneven"
    make_classes(root, ["a", "b"], images=4)
    for seed in range(4, 24):
        save_blobs(root / "a" / f"{seed}.png", (200, 50, 50), seed)
    plain, heard = ran_with(HEAD_ONLY, root=root)
    assert "--balance" in heard.text or "fewer than" in heard.text
    even, _ = ran_with(replace(HEAD_ONLY, balance=True), root=root)
    assert even.epochs[0].loss != plain.epochs[0].loss
    best = max(even.epochs, key=lambda row: (row.balanced_accuracy, -row.val_loss))
    assert even.end.epoch == best.epoch


def test_patience_and_minutes(ran_with: RanWith) -> None:
    idle = replace(ONE_EPOCH, epochs=6, lr=CANNOT_LEARN, augment="none", batch_size=18)
    ran, heard = ran_with(replace(idle, patience=1))
    assert len(ran.of_phase("network")) <= 2  # rounding may make the first a little better
    assert "--patience ends the training" in heard.text
    ran, heard = ran_with(replace(idle, minutes=1e-6))
    assert not ran.of_phase("network")
    assert "--minutes ends the training" in heard.text
    assert ran.end.phase == "head"


def test_batch_size_lr_and_precision(ran_with: RanWith, small: ModelOptions) -> None:
    ran, heard = ran_with(
        replace(ONE_EPOCH, batch_size=6, lr=CANNOT_LEARN, precision="bf16", weight_decay=0.0)
    )
    assert "cpu, bf16: 1 epoch of 3 updates with about 6 images each" in heard.text
    assert not changed(ran, small)
    ran, heard = ran_with(replace(ONE_EPOCH, batch_size=18))
    assert "cpu, fp32: 1 epoch of 1 updates with about 18 images each" in heard.text
    assert changed(ran, small)


def test_weight_decay_draws_weights_to_zero(ran_with: RanWith) -> None:
    norms = []
    for weight_decay in (0.0, 50.0):
        ran, _ = ran_with(replace(HEAD_ONLY, weight_decay=weight_decay))
        norms.append(np.linalg.norm(ran.tensors["classifier.1.weight"]))
    assert norms[1] < 0.9 * norms[0]


def test_val_and_its_fraction(ran_with: RanWith, colours: Path, tmp_path: Path) -> None:
    ran, _ = ran_with(HEAD_ONLY, dataset=DatasetOptions(val_fraction=0.5))
    assert (ran.card.dataset["train"], ran.card.dataset["val"]) == (12, 12)
    held_out = tmp_path / "held out"
    make_classes(held_out, images=3, first_seed=70)
    ran, _ = ran_with(HEAD_ONLY, dataset=DatasetOptions(val=held_out))
    assert (ran.card.dataset["train"], ran.card.dataset["val"]) == (24, 9)


def test_own_model_goes_on_to_other_classes(ran_with: RanWith, tmp_path: Path) -> None:
    first, _ = ran_with(replace(ONE_EPOCH, hidden=16))
    root = tmp_path / "others"
    make_classes(root, ["one", "two"])
    second, heard = ran_with(HEAD_ONLY, root=root, model=ModelOptions(model=first.folder))
    assert str(first.folder) in heard.text
    assert second.card.classes == ("one", "two")
    assert second.card.options["base_sha256"] == sha(first.model)
    assert second.tensors["classifier.1.weight"].shape == (2, 1280)
    assert "classifier.4.weight" not in second.tensors
    for name, value in first.tensors.items():
        if name.startswith("features"):
            assert np.array_equal(second.tensors[name], value)


def test_weights_of_the_user(ran_with: RanWith, small: ModelOptions, tmp_path: Path) -> None:
    tensors = checkpoint.read_tensors(small.model / "model.safetensors")  # type: ignore[operator]
    tensors["features.0.0.weight"] = tensors["features.0.0.weight"] * 1.01
    torch.save(tensors, tmp_path / "mine.pth")
    mine = ModelOptions(weights=tmp_path / "mine.pth", variant="lite0")
    ran, _ = ran_with(HEAD_ONLY, model=mine)
    assert ran.card.options["base_sha256"] == sha((tmp_path / "mine.pth").read_bytes())
    found = ran.tensors["features.0.0.weight"]
    assert np.array_equal(found, tensors["features.0.0.weight"].numpy())


def test_from_scratch_needs_no_weights(
    ran_with: RanWith, monkeypatch: pytest.MonkeyPatch, small: ModelOptions
) -> None:
    def no_weights(*_: Any, **__: Any) -> Path:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr("effnet_cli.models.weights.fetch_weights", no_weights)
    scratch = replace(ONE_EPOCH, from_scratch=True, batch_size=9)
    ran, _ = ran_with(scratch, model=ModelOptions(variant="lite0", offline=True))
    assert [epoch.phase for epoch in ran.epochs] == ["network"]
    statistics = kept_state(ran.folder)[1]["network.features.0.1.running_mean"]
    assert statistics.any()  # from zero: they learn too
    assert len(Classifier(ModelOptions(model=ran.folder)).card.classes) == 3
    with pytest.raises(UsageError, match="--from-scratch"):
        ran_with(scratch)  # with --model


def test_compile_compiles_the_network_that_learns(
    ran_with: RanWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []

    class Compiled(nn.Module):
        """In the place of torch.compile, which takes a minute."""

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module, self.calls = module, 0
            compiled.append(self)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.module(x)

    monkeypatch.setattr(torch, "compile", Compiled)
    plain, _ = ran_with(replace(ONE_EPOCH, batch_size=9))
    assert not compiled
    ran, _ = ran_with(replace(ONE_EPOCH, batch_size=9, compile=True))
    (one,) = compiled
    assert one.calls == 2
    assert set(ran.tensors) == set(plain.tensors)
    assert np.array_equal(
        kept_state(ran.folder)[1]["network.features.0.0.weight"],
        kept_state(plain.folder)[1]["network.features.0.0.weight"],
    )


def test_variant_without_weights_is_refused_with_the_way_out(
    colours: Path, tmp_path: Path, effnet: Callable[..., Done]
) -> None:
    done = effnet(
        *("finetune", colours, "--variant", "b0", "--offline", "-o", tmp_path / "run", "-n", "1")
    )
    assert done.status == 1
    assert done.stdout == b""
    assert "The weights of b0 are missing" in done.stderr
    assert "--weights FILE" in done.stderr
    assert not (tmp_path / "run").exists()


def test_max_pixels_are_obeyed(colours: Path, tmp_path: Path) -> None:
    images = ImageOptions(max_pixels=5000)
    with pytest.raises(DatasetRefused, match="too_large"):
        train(task_of(colours, ModelOptions(), tmp_path / "run", HEAD_ONLY, images=images))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_missing_cuda_is_said(colours: Path, tmp_path: Path, effnet: Callable[..., Done]) -> None:
    done = effnet("finetune", colours, "--device", "cuda", "-o", tmp_path / "run")
    assert done.status == 1
    assert "Found no CUDA device" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--epochs", "0"], "0"),
        (["--lr", "-1"], "-1"),
        (["--lr", "nan"], "nan"),
        (["--weight-decay", "-0.1"], "'-0.1' is not a number from 0"),
        (["--batch-size", "x"], "x"),
        (["--hidden", "-3"], "'-3' is not a whole number from 0"),
        (["--epochs", "-3"], "'-3' is not a whole number from 1"),
        (["--augment", "wild"], "wild"),
        (["--val-fraction", "1"], "1"),
        (["--patience", "0"], "0"),
        (["--minutes", "inf"], "inf"),
        (["--seed", "-1"], "-1"),
        (["--precision", "int8"], "int8"),
        (["--variant", "b99"], "b99"),
        (["--device", "tpu"], "tpu"),
        (["--model", "no-such-file"], "no-such-file"),
        (["--resume", "no-such-run"], "no-such-run"),
        (["--freeze", "10"], "10"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_values_are_refused_by_name(
    options: list[str], word: str, colours: Path, tmp_path: Path, effnet: Callable[..., Done]
) -> None:
    output = [] if "--resume" in options else ["-o", tmp_path / "run", "--head-only"]
    done = effnet("finetune", colours, *output, *options)
    assert done.status == 2, done.stderr
    assert word in done.stderr
    assert done.stdout == b""
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_precision_that_is_not_run_is_refused_before_the_scan(effnet: Callable[..., Done]) -> None:
    done = effnet("finetune", "no-such-dataset", "--precision", "fp16", "--device", "cpu")
    assert done.status == 2
    assert "torch does not run model files in fp16 on cpu." in done.stderr
    assert "It runs fp32, bf16 there." in done.stderr
    assert "no-such-dataset" not in done.stderr


def test_dataset_is_asked_for(effnet: Callable[..., Done]) -> None:
    done = effnet("finetune")
    assert done.status == 2
    assert "effnet finetune ./dataset" in done.stderr


# --- the check --------------------------------------------------------------------------------

CHECK = (
    "import sys; from effnet_cli.cli.main import run; status = run(); "
    "sys.stderr.write('\\nMODULES ' + ' '.join(sys.modules)); sys.exit(status)"
)


def test_check_needs_no_torch_and_leaves_nothing(colours: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    make_classes(bad, ["only"])
    for root, status in ((colours, 0), (bad, 2)):
        before = tree(root)
        done = subprocess.run(
            [sys.executable, "-c", CHECK, "finetune", root, "--check", "-f", "json"],
            capture_output=True,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
        assert done.returncode == status
        content = json.loads(done.stdout)
        assert content["ok"] == (status == 0)
        modules = set(done.stderr.decode().rpartition("MODULES ")[2].split())
        assert "effnet_cli.datasets" in modules
        assert not modules & {"torch", "torchvision", "onnx", "onnxruntime", "rich"}
        assert tree(root) == before
    kinds = {finding["kind"] for finding in content["findings"]}
    assert "one_class" in kinds
    assert not (tmp_path / "runs").exists()


# --- the run's folder -------------------------------------------------------------------------


def test_folder_that_exists_is_refused_with_the_way_on(
    colours: Path, small: ModelOptions, tmp_path: Path, effnet: Callable[..., Done]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    done = effnet("finetune", colours, "--model", small.model, "-o", tmp_path / "run")
    assert done.status == 2
    assert f"--resume {tmp_path / 'run'}" in done.stderr
    assert tree(tmp_path / "run") == {"mine.txt": b"mine"}


def test_default_folders_are_numbered(
    colours: Path, small: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("colours-lite0", "colours-lite0-2"):
        ran = train(replace(task_of(colours, small, Path(), HEAD_ONLY), output=None))
        assert ran.folder == Path("runs", name)


def test_second_training_into_a_folder_is_refused(
    colours: Path, small: ModelOptions, tmp_path: Path, run: Run, quick: None
) -> None:
    folder = tmp_path / "run"
    records: Iterator[Any] = finetune(task_of(colours, small, folder, HEAD_ONLY))
    next(records)
    before = tree(folder)
    done = run("finetune", "--resume", folder)
    assert done.returncode == 2
    assert b"Another training writes into" in done.stderr
    assert tree(folder) == before
    *_, end = records
    assert end.model == folder / "model.safetensors"


# --- CUDA -------------------------------------------------------------------------------------


@pytest.mark.cuda
def test_cuda_learns_in_bf16(colours: Path, tmp_path: Path) -> None:
    heard = RecordingReporter()
    options = FinetuneOptions(epochs=1)
    ran = train(task_of(colours, ModelOptions(), tmp_path / "run", options), heard)
    assert "The whole network on cuda, bf16" in heard.text
    assert ran.end.val.top1 == 1.0
    assert np.isfinite([epoch.loss for epoch in ran.epochs]).all()


@pytest.mark.cuda
def test_cuda_goes_on_in_fp16_with_its_loss_scale(colours: Path, tmp_path: Path) -> None:
    options = FinetuneOptions(epochs=2, precision="fp16", lr=1e-5)
    folder = tmp_path / "run"
    records = finetune(task_of(colours, ModelOptions(), folder, options))
    next(record for record in records if getattr(record, "phase", "") == "network")
    records.close()  # type: ignore[attr-defined]
    header, tensors = kept_state(folder)
    assert header["scaler"]["scale"] > 1
    assert any(name.startswith("optimizer.") for name in tensors)
    ran = go_on(folder)
    assert [epoch.epoch for epoch in ran.epochs] == [2]
    assert ran.end.val.top1 == 1.0
