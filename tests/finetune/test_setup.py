"""Setting up a run: datasets, weights, options and run folders."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effnet_cli.datasets.records import DatasetError
from effnet_cli.finetune.run import finetune
from effnet_cli.models import checkpoint
from effnet_cli.options import DatasetOptions, ImageOptions, ModelOptions
from effnet_cli.predict.classifier import Classifier
from effnet_cli.system.errors import UsageError
from helpers import Run
from training import (
    HEAD_ONLY,
    ONE_EPOCH,
    CommandResult,
    RunWith,
    make_classes,
    make_task,
    read_state,
    read_tree,
    sha256,
    train,
)

pytestmark = pytest.mark.usefixtures("one_core", "caches")


def test_val_and_val_fraction_choose_validation_images(
    run_with: RunWith, colours: Path, tmp_path: Path
) -> None:
    ran, _ = run_with(HEAD_ONLY, dataset=DatasetOptions(val_fraction=0.5))
    assert (ran.card.dataset["train"], ran.card.dataset["val"]) == (12, 12)
    held_out = tmp_path / "held out"
    make_classes(held_out, images=3, first_seed=70)
    ran, _ = run_with(HEAD_ONLY, dataset=DatasetOptions(val=held_out))
    assert (ran.card.dataset["train"], ran.card.dataset["val"]) == (24, 9)


def test_fine_tuned_model_is_trained_on_other_classes(run_with: RunWith, tmp_path: Path) -> None:
    first, _ = run_with(replace(ONE_EPOCH, hidden=16))
    root = tmp_path / "others"
    make_classes(root, ["one", "two"])
    second, reporter = run_with(HEAD_ONLY, root=root, model=ModelOptions(model=first.folder))
    assert str(first.folder) in reporter.text
    assert second.card.classes == ("one", "two")
    assert second.card.options["base_sha256"] == sha256(first.model)
    assert second.tensors["classifier.1.weight"].shape == (2, 1280)
    assert "classifier.4.weight" not in second.tensors
    for name, value in first.tensors.items():
        if name.startswith("features"):
            assert np.array_equal(second.tensors[name], value)


def test_weights_file_is_the_starting_point(
    run_with: RunWith, small: ModelOptions, tmp_path: Path
) -> None:
    tensors = checkpoint.read_tensors(small.model / "model.safetensors")  # type: ignore[operator]
    tensors["features.0.0.weight"] = tensors["features.0.0.weight"] * 1.01
    torch.save(tensors, tmp_path / "mine.pth")
    mine = ModelOptions(weights=tmp_path / "mine.pth", variant="lite0")
    ran, _ = run_with(HEAD_ONLY, model=mine)
    assert ran.card.options["base_sha256"] == sha256((tmp_path / "mine.pth").read_bytes())
    found = ran.tensors["features.0.0.weight"]
    assert np.array_equal(found, tensors["features.0.0.weight"].numpy())


def test_from_scratch_needs_no_weights(
    run_with: RunWith, monkeypatch: pytest.MonkeyPatch, small: ModelOptions
) -> None:
    def fail(*_: Any, **__: Any) -> Path:
        raise AssertionError("weights were fetched")

    monkeypatch.setattr("effnet_cli.models.weights.fetch_weights", fail)
    scratch = replace(ONE_EPOCH, from_scratch=True, batch_size=9)
    ran, _ = run_with(scratch, model=ModelOptions(variant="lite0", offline=True))
    assert [epoch.phase for epoch in ran.epochs] == ["full"]
    statistics = read_state(ran.folder)[1]["trained.features.0.1.running_mean"]
    assert statistics.any()  # they start at zero and are updated
    assert len(Classifier(ModelOptions(model=ran.folder)).card.classes) == 3
    with pytest.raises(UsageError, match="--from-scratch cannot be combined with --model"):
        run_with(scratch)
    with pytest.raises(UsageError, match="--from-scratch cannot be combined with --head-only"):
        run_with(replace(scratch, head_only=True), model=ModelOptions(variant="lite0"))


def test_variant_without_weights_is_refused(
    colours: Path, tmp_path: Path, effnet: Callable[..., CommandResult]
) -> None:
    done = effnet(
        *("finetune", colours, "--variant", "b0", "--offline", "-o", tmp_path / "run", "-n", "1")
    )
    assert done.status == 1
    assert done.stdout == b""
    assert "The weights of b0 are missing" in done.stderr
    assert "--weights FILE" in done.stderr
    assert not (tmp_path / "run").exists()


def test_max_pixels_applies_to_the_scan(colours: Path, tmp_path: Path) -> None:
    images = ImageOptions(max_pixels=5000)
    with pytest.raises(DatasetError, match="too_large"):
        train(make_task(colours, ModelOptions(), tmp_path / "run", HEAD_ONLY, images=images))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_missing_cuda_device_is_an_error(
    colours: Path, tmp_path: Path, effnet: Callable[..., CommandResult]
) -> None:
    done = effnet("finetune", colours, "--device", "cuda", "-o", tmp_path / "run")
    assert done.status == 1
    assert "No CUDA device found" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "0"),
        (["--lr", "-1"], "-1"),
        (["--lr", "nan"], "nan"),
        (["--weight-decay", "-0.1"], "Invalid --weight-decay '-0.1'.\nUse a number of at least 0."),
        (["--batch-size", "x"], "x"),
        (["--hidden", "-3"], "Invalid --hidden '-3'.\nUse a whole number from 0 to 16384."),
        (["--epochs", "-3"], "Invalid --epochs '-3'.\nUse auto or a whole number of at least 1."),
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
def test_invalid_values_are_refused(
    options: list[str],
    message: str,
    colours: Path,
    tmp_path: Path,
    effnet: Callable[..., CommandResult],
) -> None:
    output = [] if "--resume" in options else ["-o", tmp_path / "run"]
    done = effnet("finetune", colours, *output, *options)
    assert done.status == 2, done.stderr
    assert message in done.stderr
    assert done.stdout == b""
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_unsupported_precision_is_refused_before_the_scan(
    effnet: Callable[..., CommandResult],
) -> None:
    done = effnet("finetune", "no-such-dataset", "--precision", "fp16", "--device", "cpu")
    assert done.status == 2
    assert "torch does not support model files in fp16 on cpu." in done.stderr
    assert "Use --precision bf16 or fp32." in done.stderr
    assert "no-such-dataset" not in done.stderr


def test_missing_dataset_is_an_error(effnet: Callable[..., CommandResult]) -> None:
    done = effnet("finetune")
    assert done.status == 2
    assert "effnet finetune ./dataset" in done.stderr


def test_existing_output_is_refused(
    colours: Path, small: ModelOptions, tmp_path: Path, effnet: Callable[..., CommandResult]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    done = effnet("finetune", colours, "--model", small.model, "-o", tmp_path / "run")
    assert done.status == 2
    assert done.stderr.endswith(" already exists.\nUse a new folder.\n")  # it is not a run
    assert read_tree(tmp_path / "run") == {"mine.txt": b"mine"}


def test_default_run_folders_are_numbered(
    colours: Path, small: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("colours-lite0", "colours-lite0-2"):
        ran = train(replace(make_task(colours, small, Path(), HEAD_ONLY), output=None))
        assert ran.folder == Path("runs", name)


def test_second_run_in_the_same_folder_is_refused(
    colours: Path, small: ModelOptions, tmp_path: Path, run: Run, quick: None
) -> None:
    folder = tmp_path / "run"
    records: Iterator[Any] = finetune(make_task(colours, small, folder, HEAD_ONLY))
    next(records)
    before = read_tree(folder)
    done = run("finetune", "--resume", folder)
    assert done.returncode == 2
    assert b"Another run is using" in done.stderr
    assert read_tree(folder) == before
    *_, end = records
    assert end.model == folder / "model.safetensors"
