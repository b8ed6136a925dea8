"""Targets that are made from torch's own export of the network."""

import copy
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.functional import avg_pool2d
from torch.nn.utils.fusion import fuse_conv_bn_eval

from effnet_cli.engines.quiet import silence_output
from effnet_cli.export.source import ExportSource
from effnet_cli.models.card import CARD_KEY, ModelCard
from effnet_cli.system.errors import EffnetError, UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MAX_OPEN_BATCH = 4096  # images in one call of a file whose batch is open


class _Whole(nn.Module):
    """A network, perhaps with what comes before and after it.

    float32 [N,3,H,W] -> logits float32 [N,C]; or with preprocessing uint8 [N,H,W,3], or 0 to 255 as
    float32 [N,3,H,W], -> probabilities float32 [N,C].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, card: ModelCard, dtype: torch.dtype, *, is_bytes: bool
    ) -> None:
        super().__init__()
        self.network = network
        self._dtype = dtype
        self._is_bytes = is_bytes
        self._temperature = card.temperature
        for name in ("mean", "std"):
            values = torch.tensor(getattr(card.preprocessing, name), dtype=torch.float32)
            self.register_buffer(name, values.reshape(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        if self._is_bytes:
            planes = pixels.permute(0, 3, 1, 2) if pixels.dtype == torch.uint8 else pixels
            pixels = (planes.float() / 255 - self.mean) / self.std
        logits: Tensor = self.network(pixels.to(self._dtype)).float()
        return (logits / self._temperature).softmax(-1) if self._is_bytes else logits


class _RowsFirst(nn.Module):
    """The mean of each channel, [N,C,H,W] -> [N,C,1,1], of each row first: XNNPACK and Inductor add
    up value by value, and of the 36,100 floats of b4's first gate that leaves four or five digits.
    """

    def forward(self, values: Tensor) -> Tensor:
        rows = avg_pool2d(values, (1, values.shape[3]))
        return avg_pool2d(rows, (rows.shape[2], 1))


def _fold_norms(network: nn.Module) -> None:
    """Each BatchNorm into the convolution before it: converters that go through a graph again and
    again need half the time.
    """
    for unit in network.modules():
        conv, norm, *_ = (*unit.children(), None, None)
        if isinstance(unit, nn.Sequential) and isinstance(norm, nn.BatchNorm2d):
            unit[0] = fuse_conv_bn_eval(conv.double(), norm.double()).float()
            unit[1] = nn.Identity()


def _keep_digits(network: nn.Module) -> None:
    """Averages over whole maps by `_RowsFirst`."""
    for unit in network.modules():
        for name, layer in unit.named_children():
            if isinstance(layer, nn.AdaptiveAvgPool2d):
                setattr(unit, name, _RowsFirst())


def _program(
    source: ExportSource,
    dtype: torch.dtype = torch.float32,
    *,
    is_image: bool = False,
    edits: Sequence[Callable[[nn.Module], None]] = (),
) -> ExportedProgram:
    """The network in the numbers that were asked for, as torch exports it.

    Args:
        is_image: bytes come as float32 [N,3,H,W].
        edits: what is done to a copy of the network before.
    """
    options, crop_px = source.options, source.card.preprocessing.crop_px
    network = copy.deepcopy(source.module)
    for edit in edits:
        edit(network)
    is_bytes = options.include_preprocessing
    whole = _Whole(network.to(dtype), source.card, dtype, is_bytes=is_bytes)
    size = options.batch or 2  # an open batch is not to be taken for a fixed one of 1
    if options.include_preprocessing and not is_image:
        pixels = torch.zeros(size, crop_px, crop_px, 3, dtype=torch.uint8)
    else:
        pixels = torch.zeros(size, 3, crop_px, crop_px)
    batch = {0: Dim("batch", min=1, max=MAX_OPEN_BATCH)} if options.batch is None else {}
    with torch.no_grad():
        return torch.export.export(whole.eval(), (pixels,), dynamic_shapes=(batch,))


def write_torch_export(source: ExportSource, path: Path) -> None:
    """An exported program; the card is its extra file `effnet`."""
    program = _program(source, DTYPES[source.options.precision])
    program.example_inputs = None  # they would be stored too
    with _quiet():
        torch.export.save(program, path, extra_files={CARD_KEY: source.card.to_json()})


def write_aotinductor(source: ExportSource, path: Path) -> None:
    """Machine code for this kind of processor; the card is in its metadata.

    Raises:
        EffnetError: there is no compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise EffnetError(
            f"The target aotinductor needs a C++ compiler, and {compiler!r} is not here.",
            "Install one (on Debian: apt install g++), or name it in CXX.",
        )
    program = _program(source, DTYPES[source.options.precision], edits=[_keep_digits])
    settings: dict[str, Any] = {
        "aot_inductor.metadata": {CARD_KEY: source.card.to_json()},
        "freezing": True,  # weights are constants: folded and laid out for the processor
    }
    with _quiet(), torch.no_grad():
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs=settings
        )


def write_executorch(source: ExportSource, path: Path) -> None:
    """A program for XNNPACK; the format has no place for the card."""
    with _quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(
            _program(source, edits=[_fold_norms, _keep_digits]),
            partitioner=[XnnpackPartitioner()],
        ).to_executorch()
    path.write_bytes(lowered.buffer)


def write_coreml(source: ExportSource, path: Path) -> None:
    """An ML program; the card is in its user-defined metadata. With preprocessing it takes an
    image.

    Raises:
        UsageError: Core ML takes one image at a time.
    """
    is_image, batch = source.options.include_preprocessing, source.options.batch
    if is_image and batch != 1:
        raise UsageError(
            f"Core ML takes one image at a time, not --batch {batch}.", "Leave --batch out."
        )
    with _quiet():
        import coremltools

        px = source.card.preprocessing.crop_px
        image = coremltools.ImageType(
            name="pixels", shape=(1, 3, px, px), color_layout=coremltools.colorlayout.RGB
        )
        output = "probabilities" if is_image else "logits"
        is_half = source.options.precision == "fp16"
        precision = coremltools.precision.FLOAT16 if is_half else coremltools.precision.FLOAT32
        package = coremltools.convert(
            _program(source, is_image=is_image, edits=[_fold_norms]).run_decompositions({}),
            convert_to="mlprogram",
            inputs=[image] if is_image else None,
            outputs=[coremltools.TensorType(name=output)],
            compute_precision=precision,
            minimum_deployment_target=coremltools.target.iOS16,
        )
        package.user_defined_metadata[CARD_KEY] = source.card.to_json()
        package.short_description = f"{source.card.variant}, {len(source.card.classes)} classes"
        package.save(str(path))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' words about themselves: what matters is compared afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), silence_output():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
