"""Measures a model's intermediate values on real images, to choose the ranges for int8."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from effnet_cli.engines import onnx_session
from effnet_cli.engines.normalise import Pixels
from effnet_cli.engines.onnx_writer import INPUT, OUTPUT

# How a value's range is derived from its measurements: the extremes over all images, the mean of
# each image's extremes, or all sampled numbers without the lowest and highest 0.01 or 0.1 %.
Calibrator = Literal["widest", "average", "percentile 99.99", "percentile 99.9"]
CALIBRATORS: tuple[Calibrator, ...] = ("widest", "average", "percentile 99.99", "percentile 99.9")
SAMPLES_PER_IMAGE = 1024  # numbers of one value to keep


@dataclass(slots=True)
class ValueStats:
    """Measurements of one value in a graph.

    They are its minimum and maximum in each image, a sample of its numbers, and the sum over images
    of each channel's mean [C].
    """

    minima: list[float] = field(default_factory=list)
    maxima: list[float] = field(default_factory=list)
    samples: list[npt.NDArray[np.float32]] = field(default_factory=list)
    channel_sums: npt.NDArray[np.float64] | float = 0.0

    def add(self, value: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
        """Add the value [1,C,...] from one more image."""
        flat = value.ravel()
        self.minima.append(float(flat.min()))
        self.maxima.append(float(flat.max()))
        if flat.size > SAMPLES_PER_IMAGE:
            flat = flat[rng.integers(0, flat.size, SAMPLES_PER_IMAGE)]
        self.samples.append(flat)
        channels = value[0].reshape(value.shape[1], -1)
        self.channel_sums = self.channel_sums + channels.mean(axis=1, dtype=np.float64)

    @property
    def channel_means(self) -> npt.NDArray[np.float64]:
        return np.asarray(self.channel_sums) / len(self.minima)

    def range_by(self, calibrator: Calibrator) -> tuple[float, float]:
        """Return the range that int8 must cover, which always includes 0."""
        if calibrator == "widest":
            low, high = min(self.minima), max(self.maxima)
        elif calibrator == "average":
            low, high = float(np.mean(self.minima)), float(np.mean(self.maxima))
        else:
            share = float(calibrator.removeprefix("percentile "))
            low, high = np.percentile(np.concatenate(self.samples), [100 - share, share]).tolist()
        return min(low, 0.0), max(high, 0.0)


Calibration = Mapping[str, ValueStats]


def measure_ranges(model: onnx.ModelProto, images: Iterable[Pixels]) -> Calibration:
    """Run a float32 graph on `images` [1,3,H,W] and measure each value except the logits."""
    names = [name for node in model.graph.node for name in node.output if name != OUTPUT]
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    observed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    session = onnx_session.open_session(observed.SerializeToString())
    stats = {name: ValueStats() for name in (INPUT, *names)}
    rng = np.random.default_rng(0)
    for pixels in images:
        values = session.run(names, {INPUT: pixels})
        for one, value in zip(stats.values(), (pixels, *values), strict=True):
            one.add(value, rng)
    return stats
