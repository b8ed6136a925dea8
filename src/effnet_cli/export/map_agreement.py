"""Compares the feature maps of an exported file with those of its PyTorch source."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from effnet_cli.engines.base import pad
from effnet_cli.engines.normalise import Pixels, normalise
from effnet_cli.export.agreement import REFERENCE, split_chunks
from effnet_cli.export.records import ComparedForm, ComparedMap, ExportComparison
from effnet_cli.export.samples import LabelledCrop
from effnet_cli.export.source import ExportSource
from effnet_cli.export.targets import TARGETS
from effnet_cli.models.architectures import MAX_MAP_STRIDE

RunMaps = Callable[[Pixels], Mapping[str, Pixels]]  # pixels [N,3,H,W] to maps [N,C,h,w] by name
# The largest relative error of a map, by precision. Measured with the published weights of lite0 to
# lite2: 4e-6, 0.012 and 0.13.
MAP_TOLERANCES = {"fp32": 1e-4, "fp16": 0.03, "bf16": 0.25}
TINY = 1e-30  # keeps the length of an empty map from being 0


@dataclass(frozen=True, slots=True)
class _TimedForm:
    """A form of the model; each call adds its milliseconds per image."""

    name: str
    run: RunMaps
    size_bytes: int
    times_ms: list[float] = field(default_factory=list)

    def __call__(self, pixels: Pixels) -> Mapping[str, Pixels]:
        started = time.perf_counter()
        maps = self.run(pixels)
        self.times_ms.append(1000 * (time.perf_counter() - started) / len(pixels))
        return maps


def compare_maps(
    source: ExportSource, path: Path, images: Iterable[LabelledCrop], *, image_set: str
) -> ExportComparison:
    """Compare the maps of the file with torch's on all images, whole and narrow ones in turn."""
    options, batch, count = source.options, source.options.batch or 1, 0
    reference = _TimedForm(REFERENCE, _load_torch(source), source.model.path.stat().st_size)
    name = f"{options.target} {options.output_precision}"
    form = _TimedForm(name, _load_file(source, path), path.stat().st_size)
    maps = [
        ComparedMap(one.name, one.channels, one.stride, cosine=1.0, relative_error=0.0)
        for one in source.model.variant.architecture.feature_maps()
    ]
    for number, chunk in enumerate(split_chunks(images, batch)):
        crops = pad(np.concatenate([image.crop for image in chunk]), batch)
        pixels = _fit(normalise(crops, source.card.preprocessing), is_narrow=number % 2 == 1)
        expected, actual = reference(pixels), form(pixels)
        maps = [_add(one, expected[one.name], actual.get(one.name)) for one in maps]
        count += len(chunk)
    forms = (
        ComparedForm(
            REFERENCE, reference.size_bytes, median_ms=float(np.median(reference.times_ms))
        ),
        ComparedForm(name, form.size_bytes, median_ms=float(np.median(form.times_ms))),
    )
    return ExportComparison(
        image_set,
        images=count,
        forms=forms,
        rejection=_find_violation(maps, name, MAP_TOLERANCES[options.output_precision]),
        maps=tuple(maps),
    )


def _load_torch(source: ExportSource) -> RunMaps:
    module = source.feature_maps()

    def run(pixels: Pixels) -> dict[str, Pixels]:
        with torch.inference_mode():
            return {name: one.numpy() for name, one in module(torch.from_numpy(pixels)).items()}

    return run


def _load_file(source: ExportSource, path: Path) -> RunMaps:
    module, function = str(TARGETS[source.options.target].map_loader).split(":")
    run: RunMaps = getattr(import_module(module), function)(path)
    return run


def _fit(pixels: Pixels, *, is_narrow: bool) -> Pixels:
    """Pad pixels [N,3,H,W] with zeros to multiples of 32, as detectors do. `is_narrow` keeps only
    the left half, so that the sides differ.
    """
    if is_narrow:
        pixels = pixels[..., : -(-pixels.shape[3] // 2)]
    missing = [(0, -side % MAX_MAP_STRIDE) for side in pixels.shape[2:]]
    return np.pad(pixels, [(0, 0), (0, 0), *missing])


def _add(one: ComparedMap, expected: Pixels, actual: Pixels | None) -> ComparedMap:
    """Return the comparison after one more batch."""
    if one.cosine is None or one.relative_error is None:
        return one
    if actual is None or actual.shape != expected.shape or not np.isfinite(actual).all():
        return replace(one, cosine=None, relative_error=None)
    a, b = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (expected, actual))
    lengths_a, lengths_b = (np.linalg.norm(values, axis=1) + TINY for values in (a, b))
    cosines = (a * b).sum(axis=1) / (lengths_a * lengths_b)
    errors = np.linalg.norm(b - a, axis=1) / lengths_a
    return replace(
        one,
        cosine=min(one.cosine, float(cosines.min())),
        relative_error=max(one.relative_error, float(errors.max())),
    )


def _find_violation(maps: Sequence[ComparedMap], form: str, limit: float) -> str | None:
    for one in maps:
        if one.relative_error is None:
            return f"{one.name} of {form} has another shape than torch's, or infinite values"
        if one.relative_error > limit:
            return (
                f"{one.name} of {form} differs from torch's by {one.relative_error:.1e} of its "
                f"length; the limit is {limit:g}"
            )
    return None
