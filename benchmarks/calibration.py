"""Calibration of fine-tuned models on images that nothing was fitted on.

calibration.py OUT --emoji DIR [--epochs N]

Creates four datasets with train, val and test below OUT: emoji (DIR has train/ and val/ with class
folders; val/ is divided), scikit-learn's digits, letters in fonts not seen in training, and
scikit-image's textures, with splits from separate regions. A model is fine-tuned on each. On its
test images, this prints the expected calibration error at temperature 1 and at the fitted one, the
precision and coverage of predictions above the `auto` threshold, and how many images of the other
datasets fall below it. (Needs `pip install scikit-learn scikit-image`.)
"""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage import data as textures
from sklearn.datasets import load_digits

from effnet_cli.datasets.labelled import load_labelled
from effnet_cli.engines.base import to_probabilities
from effnet_cli.evaluate.label_map import match_labels
from effnet_cli.evaluate.metrics import calibrate
from effnet_cli.finetune.run import finetune
from effnet_cli.images.finder import ImageInput
from effnet_cli.options import FinetuneOptions, FinetuneTask, ModelOptions
from effnet_cli.predict.classifier import Classifier

KNOWN_FONTS = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf", "DejaVuSans-Bold.ttf")
OTHER_FONTS = ("STIXGeneral.ttf", "DejaVuSerif-Italic.ttf", "cmr10.ttf", "cmtt10.ttf")
OTHERS = 300  # images of each other dataset


def make_emoji(source: Path, root: Path) -> None:
    """Copy the training images, and use every other validation image as a test image."""
    shutil.copytree(source / "train", root / "train")
    for number, path in enumerate(sorted((source / "val").glob("*/*"))):
        folder = root / ("val", "test")[number % 2] / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)


def make_digits(root: Path) -> None:
    """Write 500 training images, 400 validation images, and the rest as test images."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "train" if number < 500 else "val" if number < 900 else "test"
        image = Image.fromarray((pixels * 255 / 16).astype("uint8"))
        save(image, root / split / str(label) / f"{number}.png")


def make_letters(root: Path) -> None:
    """Draw A to L, rotated and noisy; validation and test have fonts not seen in training."""
    rng = np.random.default_rng(0)
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    for split in ("train", "val", "test"):
        names = KNOWN_FONTS if split == "train" else OTHER_FONTS
        for letter in "ABCDEFGHIJKL":
            for number in range(40 if split == "train" else 25):
                name = names[number % len(names)]
                font = ImageFont.truetype(str(folder / name), 56)
                image = Image.new("L", (96, 96), 235)
                ImageDraw.Draw(image).text((48, 48), letter, fill=30, font=font, anchor="mm")
                image = image.rotate(float(rng.normal(0, 14)), fillcolor=235)
                noisy = np.asarray(image) + rng.normal(0, 45, (96, 96))
                image = Image.fromarray(noisy.clip(0, 255).astype("uint8"))
                save(image, root / split / letter / f"{number}.png")


def make_textures(root: Path) -> None:
    """Cut three photos: training on the left, test on the right."""
    rng = np.random.default_rng(0)
    columns = {"train": (0, 200), "val": (232, 340), "test": (372, 480)}
    for name in ("brick", "grass", "gravel"):
        texture: Any = getattr(textures, name)()
        for split, (left, right) in columns.items():
            for number in range(80):
                side = int(rng.integers(16, 33))
                x = int(rng.integers(left, right - side + 1))
                y = int(rng.integers(0, texture.shape[0] - side))
                part = texture[y : y + side, x : x + side].astype(float)
                part = part + rng.normal(0, 40, part.shape)
                image = Image.fromarray(part.clip(0, 255).astype("uint8"))
                save(image, root / split / name / f"{number}.png")


def save(image: Image.Image, path: Path) -> None:
    """Write an image and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def predict_scores(model: Path, paths: list[str]) -> tuple[Any, Classifier]:
    """Return the scores of images, [N,C]."""
    classifier = Classifier(ModelOptions(model=model))
    rows: Iterator[Any] = classifier.scores(ImageInput(path, path) for path in paths)
    return np.stack(list(rows)), classifier


def probabilities(logits: Any, temperature: float) -> Any:
    """Return softmax(logits / temperature) of each row, [N,C]."""
    return to_probabilities(logits, "logits", temperature)


def main() -> None:
    """Create the datasets, train, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--emoji", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=0, help="of the full model; 0: head only")
    given = parser.parse_args()
    roots = {name: given.out / name for name in ("emoji", "digits", "letters", "textures")}
    if not given.out.exists():
        make_emoji(given.emoji, roots["emoji"])
        make_digits(roots["digits"])
        make_letters(roots["letters"])
        make_textures(roots["textures"])
    options = FinetuneOptions(head_only=not given.epochs, epochs=given.epochs or 1)
    tests = {name: load_labelled(root, "test") for name, root in roots.items()}
    for name, root in roots.items():
        run = given.out / f"run-{name}-{given.epochs}"
        if not run.exists():
            *_, _ = finetune(FinetuneTask(root, options=options, output=run))
        data = tests[name]
        logits, classifier = predict_scores(run, list(data.paths))
        card = classifier.card
        own = np.array(match_labels(data.classes, card.classes).indexes)[data.labels]
        right = logits.argmax(axis=1) == own
        before, after = (
            calibrate(probabilities(logits, t).max(axis=1), right)[0]
            for t in (1.0, card.temperature)
        )
        limit = 2.0 if card.unknown_below is None else card.unknown_below
        is_sure = probabilities(logits, card.temperature).max(axis=1) >= limit
        rejected = []
        for other, theirs in tests.items():
            if other != name:
                paths = list(theirs.paths)[:: max(1, len(theirs.paths) // OTHERS)]
                strange, _ = predict_scores(run, paths)
                top = probabilities(strange, card.temperature).max(axis=1)
                rejected.append((other, float((top < limit).mean())))
        print(
            f"{name}: {len(own)} test images, top-1 {right.mean():.1%}, ECE {before:.3f} -> "
            f"{after:.3f} at temperature {card.temperature:.2f}; from {limit:.2f} on "
            f"{right[is_sure].mean():.1%} right of {is_sure.mean():.0%}; rejected of "
            + ", ".join(f"{other} {share:.0%}" for other, share in rejected),
            flush=True,
        )


if __name__ == "__main__":
    main()
