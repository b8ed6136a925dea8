"""Crops to the model's input: scaled to 0..1, then (value - mean) / std for each channel."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from effnet_cli.engines.base import Crops
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.models.card import ModelCard

if TYPE_CHECKING:  # torch takes a second to import
    import torch
    from torch import Tensor

Pixels = npt.NDArray[np.float32]


def model_input(crops: Crops, card: ModelCard) -> npt.NDArray[np.generic]:
    """What the model of `card` takes: a file exported with its preprocessing takes the bytes."""
    if card.export.get("include_preprocessing"):
        return crops
    return normalise(crops, card.preprocessing)


def normalise(crops: Crops, preprocessing: Preprocessing) -> Pixels:
    """uint8 [N,H,W,3] -> float32 [N,3,H,W].

    Each step rounds to float32 as torchvision's does, so that no bit differs. In NumPy rather than
    in the graph: as exact, and 0.1 ms of the 13 ms that an image takes (lite0, 1 core), while
    OpenVINO turns a graph's divisions into multiplications, which differ.
    """
    planes = np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
    pixels: Pixels = np.true_divide(planes, np.float32(255), dtype=np.float32)
    pixels -= np.array(preprocessing.mean, dtype=np.float32)[:, None, None]
    pixels /= np.array(preprocessing.std, dtype=np.float32)[:, None, None]
    return pixels


def normalise_tensor(crops: "Tensor", preprocessing: Preprocessing) -> "Tensor":
    """`normalise` for a tensor on any device, bit for bit; in channels_last memory.

    It divides by tensors: CUDA multiplies by the reciprocal of a plain number.
    """
    scale, mean, std = _constants(preprocessing, crops.device)
    return crops.permute(0, 3, 1, 2).float().div_(scale).sub_(mean).div_(std)


def normalise_for_training(crops: "Tensor", preprocessing: Preprocessing) -> "Tensor":
    """As `normalise_tensor`, but mean and std are scaled to 0..255 instead of every value to 0..1:
    one pass less over each batch; the last bits differ, which training does not notice.
    """
    scale, mean, std = _constants(preprocessing, crops.device)
    return crops.permute(0, 3, 1, 2).float().sub_(mean * scale).div_(std * scale)


@cache  # a copy to the device waits for the device
def _constants(preprocessing: Preprocessing, device: "torch.device") -> "tuple[Tensor, ...]":
    """255, mean [3,1,1] and standard deviation [3,1,1]."""
    import torch

    with torch.inference_mode(False):
        values = (preprocessing.mean, preprocessing.std)
        mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in values)
        return torch.tensor(255.0, device=device), mean, std
