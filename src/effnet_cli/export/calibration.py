"""What the values inside a network are on real images: what its int8 form is made from."""

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

# How the range of a value follows from what was seen: all of it; the mean of each image's lowest
# and highest; all but a small share at both ends.
Calibrator = Literal["widest", "average", "percentile 99.99", "percentile 99.9"]
CALIBRATORS: tuple[Calibrator, ...] = (
    "widest",
    "average",
    "percentile 99.99",
    "percentile 99.9",
)
SAMPLES = 1024  # numbers kept of each value for each image

Floats = npt.NDArray[np.float32]


@dataclass(slots=True)
class Seen:
    """One value of the graph: its lowest and highest number in each image, a sample of all, and
    the mean of each channel [C].
    """

    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    samples: list[Floats] = field(default_factory=list)
    channel_sums: npt.NDArray[np.float64] | float = 0.0

    def add(self, value: Floats, chance: np.random.Generator) -> None:
        """What the value is for one more image, [1,C,...]."""
        flat = value.ravel()
        self.lows.append(float(flat.min()))
        self.highs.append(float(flat.max()))
        is_small = flat.size <= SAMPLES
        self.samples.append(flat if is_small else flat[chance.integers(0, flat.size, SAMPLES)])
        self.channel_sums = self.channel_sums + value[0].reshape(value.shape[1], -1).mean(
            axis=1, dtype=np.float64
        )

    @property
    def channel_means(self) -> npt.NDArray[np.float64]:
        return np.asarray(self.channel_sums) / len(self.lows)

    def range_by(self, calibrator: Calibrator) -> tuple[float, float]:
        """The range that int8 is to cover; always with 0 in it."""
        if calibrator == "widest":
            low, high = min(self.lows), max(self.highs)
        elif calibrator == "average":
            low, high = float(np.mean(self.lows)), float(np.mean(self.highs))
        else:
            share = float(calibrator.removeprefix("percentile "))
            ends = np.percentile(np.concatenate(self.samples), [100 - share, share])
            low, high = float(ends[0]), float(ends[1])
        return min(low, 0.0), max(high, 0.0)


Calibration = Mapping[str, Seen]


def calibrated(model: onnx.ModelProto, images: Iterable[Pixels]) -> Calibration:
    """What every value of a float32 graph is for `images`, float32 [1,3,H,W] each."""
    names = [name for node in model.graph.node for name in node.output if name != OUTPUT]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    session = onnx_session.open_session(watched.SerializeToString())
    seen = {name: Seen() for name in (INPUT, *names)}
    chance = np.random.default_rng(0)
    for pixels in images:
        values = session.run(names, {INPUT: pixels})
        for name, value in zip(seen, (pixels, *values), strict=True):
            seen[name].add(value, chance)
    return seen
