"""Folders in timm's format: timm and effnet read them, with equal logits."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image, ImageOps
from torch import nn

from effnet_cli.export import files
from effnet_cli.export.hub import find_crop_share
from effnet_cli.export.records import ExportResult
from effnet_cli.export.run import export
from effnet_cli.finetune.run_dir import to_arrays
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models import build, checkpoint
from effnet_cli.models.card import ModelCard
from effnet_cli.models.timm_config import timm_model_name
from effnet_cli.models.variants import VARIANTS, find_variant
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import ExportOptions, ExportTask, ImageOptions, ModelOptions
from effnet_cli.predict.classifier import Classifier
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.reporter import SILENT
from exporting import SmallModel, assert_same, predict
from helpers import SAMPLES, lively, read_recipe
from training import CommandResult, FinishedRun, read_tree

pytestmark = pytest.mark.usefixtures("one_core", "one_thread")

HUB = ExportOptions("hub")


def export_hub(model: ModelOptions, folder: Path) -> ExportResult:
    return export(ExportTask(model, HUB, folder))


def load_timm(folder: Path) -> nn.Module:
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def write_model(name: str, path: Path) -> ModelOptions:
    """Write a lively model file for 64 px with three classes."""
    row = find_variant(name)
    preprocessing = replace(row.preprocessing, resize_px=71, crop_px=64)
    module = build.build(row, 3)
    lively(module)
    card = ModelCard(name, ("a", "b", "ç"), preprocessing, temperature=1.3, unknown_below=0.25)
    checkpoint.write(path, card, to_arrays(module.state_dict()))
    return ModelOptions(model=path)


@pytest.mark.parametrize(
    ("name", "architecture", "arguments"),
    [
        ("lite0", "tf_efficientnet_lite0", None),
        ("lite0.ra", "efficientnet_lite0", None),
        ("b0", "efficientnet_b0", None),
        ("b0.ns", "tf_efficientnet_b0", None),
        ("es_pruned", "efficientnet_es_pruned", None),
        ("v2_b0.tf", "tf_efficientnetv2_b0", None),
        ("v2_s", "efficientnetv2_s", {"bn_eps": 1e-3}),
    ],
)
def test_timm_gives_equal_logits(
    name: str, architecture: str, arguments: dict[str, float] | None, tmp_path: Path
) -> None:
    options = write_model(name, tmp_path / "model.safetensors")
    source, folder = resolve_model(options), tmp_path / "folder"
    module = build.load_module(source)
    write_folder(options, folder)
    config = json.loads((folder / "config.json").read_text())
    assert (config["architecture"], config.get("model_args")) == (architecture, arguments)
    theirs, again = load_timm(folder), resolve_model(ModelOptions(model=folder))
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = module(pixels)
        assert torch.equal(theirs(pixels), expected)
        assert torch.equal(build.load_module(again)(pixels), expected)
    assert (again.variant, again.card) == (source.variant, source.card)
    assert theirs.pretrained_cfg["label_names"] == ["a", "b", "ç"]


def write_folder(options: ModelOptions, folder: Path) -> None:
    """Write the folder without comparing it, which takes seconds."""
    model = resolve_model(options)
    files.write_target(
        files.ExportSource(model, model.card, HUB, module=build.load_module(model)), folder
    )


def test_every_variant_has_a_name_in_timm() -> None:
    for row in VARIANTS.values():
        name, arguments = timm_model_name(row)
        assert timm.is_model(name), row.name
        assert arguments.keys() <= {"bn_eps"}


@pytest.mark.parametrize("crop_px", [64, 224, 456, 600])
def test_timm_computes_the_size_that_was_written(crop_px: int) -> None:
    for resize_px in range(crop_px // 2, 2 * crop_px):
        assert int(crop_px / find_crop_share(resize_px, crop_px)) == resize_px


def test_finetuned_model_comes_back(
    one_epoch_run: FinishedRun, tmp_path: Path, effnet: Callable[..., CommandResult]
) -> None:
    folder = tmp_path / "to-share"
    done = effnet("export", "--to", "hub", "-m", one_epoch_run.folder, "-o", folder)
    assert done.status == 0, done.stderr
    assert "torch" in done.stdout.decode()
    assert set(read_tree(folder)) == {"config.json", "model.safetensors", "README.md"}
    assert [one.name for one in tmp_path.iterdir()] == ["to-share"]
    images = sorted(SAMPLES.glob("*.jpg"))
    actual = predict(ModelOptions(model=folder), images)
    assert_same(actual, predict(ModelOptions(model=one_epoch_run.folder), images), tolerance=0)
    assert resolve_model(ModelOptions(model=folder)).card == one_epoch_run.card
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert f"| Top-1 | {one_epoch_run.card.metrics['metrics']['top1']:.1%} |" in page
    assert "| Training | 18 images |" in page
    assert page.startswith("---\nlibrary_name: timm\nlicense: apache-2.0\n")
    assert "hf upload OWNER/NAME FOLDER" in page


def test_timm_prepares_images_as_effnet_does(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    options = write_model("b0.ns", tmp_path / "model.safetensors")
    write_folder(options, folder)
    data = timm.data.resolve_model_data_config(load_timm(folder))
    transform = timm.data.create_transform(**data, is_training=False)
    card = resolve_model(options).card
    loader = ImageLoader(card.preprocessing, ImageOptions(exact_decode=True))
    images = card.preprocessing
    for path in sorted(SAMPLES.glob("*.jpg"))[:4]:
        crop = torch.from_numpy(loader.crop(loader.open(str(path))).copy()).permute(2, 0, 1)
        mean, std = (torch.tensor(one).view(3, 1, 1) for one in (images.mean, images.std))
        theirs = transform(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        torch.testing.assert_close((crop / 255 - mean) / std, theirs, atol=1e-6, rtol=0)


def test_code_on_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(write_model("lite0", tmp_path / "model.safetensors"), tmp_path / "folder")
    page = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    code = code.replace("hf-hub:OWNER/NAME", f"local-dir:{tmp_path / 'folder'}")
    exec(compile(code.replace("image.jpg", str(SAMPLES / "cat.jpg")), "page", "exec"), {})
    label, probability = capsys.readouterr().out.split()
    exactly = ImageOptions(exact_decode=True)
    classifier = Classifier(ModelOptions(model=tmp_path / "folder"), images=exactly)
    (row,) = classifier.predict([str(SAMPLES / "cat.jpg")])
    assert label == row.predictions[0].label
    assert float(probability) == pytest.approx(row.predictions[0].probability, abs=1e-5)


def test_hidden_layer_is_refused(small_model: SmallModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hidden layer") as caught:
        export_hub(small_model("lite1-hidden"), tmp_path / "folder")
    assert "--hidden 0" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_folder_with_files_is_never_touched(small: ModelOptions, tmp_path: Path) -> None:
    for output in (tmp_path, tmp_path / "notes.txt"):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(UsageError, match="already exists"):
            export_hub(small, output)
        assert read_tree(tmp_path) == {"notes.txt": b"mine"}


def test_folder_filled_meanwhile_is_never_touched(
    small: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setattr(files, "_sync", lambda path: (folder / "notes.txt").write_text("mine"))
    with pytest.raises(EffnetError, match="Cannot write"):
        export_hub(small, folder)
    assert read_tree(tmp_path) == {"folder/notes.txt": b"mine"}


@pytest.mark.parametrize(
    ("options", "option"),
    [
        (replace(HUB, batch=2), "--batch"),
        (replace(HUB, include_preprocessing=True), "--include-preprocessing"),
        (replace(HUB, precision="fp16"), "--precision fp16"),
        (replace(HUB, quantize="int8"), "--quantize int8"),
    ],
    ids=str,
)
def test_options_of_graphs_are_refused(options: ExportOptions, option: str) -> None:
    with pytest.raises(UsageError, match=f"does not support {option}"):
        export(ExportTask(options=options), SILENT)


def test_folder_is_named_after_the_model(
    small: ModelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = export(ExportTask(small, HUB))
    assert result.path == Path("small-hub")
    assert result.comparison.rejection is None
    assert result.comparison.forms[-1].name == "hub fp32"
    assert result.comparison.forms[-1].max_difference == 0
    folder = tmp_path / "small-hub"
    assert result.comparison.forms[-1].size_bytes == sum(map(len, read_tree(folder).values()))


def test_recipe_in_the_docs_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    write_folder(write_model("v2_b0.tf", tmp_path / "model.safetensors"), folder)
    monkeypatch.setattr("sys.argv", ["classify.py", str(folder), str(SAMPLES / "cat.jpg")])
    exec(compile(read_recipe("hub"), "hub.md", "exec"), {})
    _, label, probability = capsys.readouterr().out.strip().split("\t")
    classifier = Classifier(ModelOptions(model=folder), images=ImageOptions(exact_decode=True))
    (row,) = classifier.predict([str(SAMPLES / "cat.jpg")])
    assert label == row.predictions[0].label
    assert float(probability) == pytest.approx(row.predictions[0].probability, abs=1e-5)


def test_published_weights_are_written(
    tmp_path: Path, effnet: Callable[..., CommandResult]
) -> None:
    """Their tensors are not contiguous."""
    done = effnet("export", "--to", "hub", "--variant", "lite0", "-o", tmp_path / "folder")
    assert done.status == 0, done.stderr
    image = SAMPLES / "coffee.jpg"
    assert "espresso" in effnet("predict", image, "-m", tmp_path / "folder").stdout.decode()
