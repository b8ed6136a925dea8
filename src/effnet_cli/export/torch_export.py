"""Writes the targets that start from `torch.export`."""

import copy
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.functional import avg_pool2d
from torch.nn.utils.fusion import fuse_conv_bn_eval

from effnet_cli.engines.normalise import Pixels
from effnet_cli.engines.quiet import silence_library
from effnet_cli.export.map_agreement import RunMaps
from effnet_cli.export.source import ExportSource
from effnet_cli.models.architectures import MAX_MAP_STRIDE
from effnet_cli.models.card import CARD_KEY, MAX_SIDE_PX, ModelCard
from effnet_cli.models.efficientnet import SameConv2d
from effnet_cli.system.errors import EffnetError, UsageError

COMPILER_HINT = "Check the compiler, and the space in the folder of temporary files."
MAX_CELLS = MAX_SIDE_PX // MAX_MAP_STRIDE  # rows and columns of c5
MAX_OPEN_BATCH = 4096  # images per call of a file without a fixed batch size


def write_torch_export(source: ExportSource, path: Path) -> None:
    """Write an exported program, with the card as its extra file `effnet`."""
    export_ = _export_maps if source.options.feature_maps else _export_program
    program = export_(source)
    program.example_inputs = None  # they would be saved too
    with silence_library():
        content = io.BytesIO()  # torch ends the process if a disk is full
        torch.export.save(program, content, extra_files={CARD_KEY: source.card.to_json()})
        path.write_bytes(content.getbuffer())


def load_maps(path: Path) -> RunMaps:
    """Load a file with feature maps."""
    module = torch.export.load(path).module()

    def run(pixels: Pixels) -> dict[str, Pixels]:
        with torch.inference_mode():
            return {name: one.numpy() for name, one in module(torch.from_numpy(pixels)).items()}

    return run


def write_aotinductor(source: ExportSource, path: Path) -> None:
    """Write machine code for this kind of processor, with the card in its metadata.

    Raises:
        EffnetError: no C++ compiler was found, or it failed.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise EffnetError(
            f"Target aotinductor requires a C++ compiler; {compiler!r} was not found.",
            "Install one (on Debian: apt install g++), or set CXX to its name.",
        )
    settings: dict[str, Any] = {
        "aot_inductor.metadata": {CARD_KEY: source.card.to_json()},
        "freezing": True,  # weights become constants, folded and laid out for the processor
    }
    try:
        with _plain_temporary_folder(), silence_library(), torch.no_grad():
            program = _export_program(source, edits=[_split_means])
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=settings
            )
    except torch._inductor.exc.InductorError as error:
        lines = str(error).splitlines()
        reason = next((line for line in lines if "error:" in line), lines[0]).strip()
        raise EffnetError(f"torch cannot compile the model: {reason}.", COMPILER_HINT) from error


@contextmanager
def _plain_temporary_folder() -> Iterator[None]:
    """Use a folder in the system's folder of temporary files. torch does not quote paths for the
    compiler, and the one beside the output may contain spaces.
    """
    chosen, tempfile.tempdir = tempfile.tempdir, None
    try:
        tempfile.tempdir = _compiler_folder().name
        yield
    finally:
        tempfile.tempdir = chosen


@cache
def _compiler_folder() -> "tempfile.TemporaryDirectory[str]":
    """Create a folder that exists until this process ends: torch reuses the files in it."""
    return tempfile.TemporaryDirectory(prefix="effnet-")


def write_executorch(source: ExportSource, path: Path) -> None:
    """Write a program for XNNPACK. The format has no place for the card."""
    with silence_library():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = _export_program(source, edits=[_fuse_batch_norm, _split_means])
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        path.write_bytes(edge.to_executorch().buffer)


def write_coreml(source: ExportSource, path: Path) -> None:
    """Write an ML program, with the card in its user-defined metadata.

    With preprocessing, its input is an image.

    Raises:
        UsageError: with preprocessing, the batch size is not 1; Core ML takes one image at a time.
    """
    has_image, batch = source.options.include_preprocessing, source.options.batch
    if has_image and batch != 1:
        raise UsageError(
            "With --include-preprocessing, Core ML takes one image at a time, not "
            f"--batch {batch}.",
            "Omit --batch.",
        )
    with silence_library():
        import coremltools

        px = source.card.preprocessing.crop_px
        image = coremltools.ImageType(
            name="pixels", shape=(1, 3, px, px), color_layout=coremltools.colorlayout.RGB
        )
        program = _export_program(source, has_planes=has_image, edits=[_fuse_batch_norm])
        precision = "FLOAT16" if source.options.precision == "fp16" else "FLOAT32"
        package = coremltools.convert(
            program.run_decompositions({}),
            convert_to="mlprogram",
            inputs=[image] if has_image else None,
            outputs=[coremltools.TensorType(name="probabilities" if has_image else "logits")],
            compute_precision=getattr(coremltools.precision, precision),
            minimum_deployment_target=coremltools.target.iOS16,
        )
        package.user_defined_metadata[CARD_KEY] = source.card.to_json()
        package.short_description = f"{source.card.variant}, {len(source.card.classes)} classes"
        package.save(str(path))


# --- the program ----------------------------------------------------------------------------------


def _export_program(
    source: ExportSource,
    *,
    has_planes: bool = False,
    edits: Sequence[Callable[[nn.Module], None]] = (),
) -> ExportedProgram:
    """Export the model with torch.

    Args:
        has_planes: preprocessing takes float32 [N,3,H,W] instead of uint8 [N,H,W,3].
        edits: changes made to a copy of the module before the export.
    """
    options, crop_px = source.options, source.card.preprocessing.crop_px
    module = copy.deepcopy(source.module)
    for edit in edits:
        edit(module)
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    whole = _WholeModel(
        module.to(dtype), source.card, dtype, has_preprocessing=options.include_preprocessing
    )
    size = options.batch or 2  # with 1, torch would fix the batch size
    if options.include_preprocessing and not has_planes:
        example = torch.zeros(size, crop_px, crop_px, 3, dtype=torch.uint8)
    else:
        example = torch.zeros(size, 3, crop_px, crop_px)
    batch = {0: Dim("batch", min=1, max=MAX_OPEN_BATCH)} if options.batch is None else {}
    with torch.no_grad():
        return torch.export.export(whole.eval(), (example,), dynamic_shapes=(batch,))


def _export_maps(source: ExportSource) -> ExportedProgram:
    """Export the feature maps for images whose sides are multiples of 32."""
    batch = source.options.batch
    dtype = torch.bfloat16 if source.options.precision == "bf16" else torch.float32
    maps = copy.deepcopy(source.feature_maps())
    _fix_paddings(maps)
    sides = Dim("rows", min=1, max=MAX_CELLS), Dim("columns", min=1, max=MAX_CELLS)
    shapes = {2: MAX_MAP_STRIDE * sides[0], 3: MAX_MAP_STRIDE * sides[1]}
    if batch is None:
        shapes[0] = Dim("batch", min=1, max=MAX_OPEN_BATCH)
    # with one image or one cell of c5, torch would fix these sizes
    example = torch.zeros(batch or 2, 3, 2 * MAX_MAP_STRIDE, 3 * MAX_MAP_STRIDE)
    with torch.no_grad():
        module = _FloatMaps(maps.to(dtype), dtype).eval()
        return torch.export.export(module, (example,), dynamic_shapes=(shapes,))


class _FloatMaps(nn.Module):
    """Feature maps, computed in `dtype`, with float32 input and outputs."""

    def __init__(self, maps: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.maps = maps
        self._dtype = dtype

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {name: one.float() for name, one in self.maps(pixels.to(self._dtype)).items()}


def _fix_paddings(module: nn.Module) -> None:
    """Replace "same" convolutions by ones with the padding for inputs with even sides.

    All inputs have them, if the sides of the image are multiples of 32.
    """
    for unit in module.modules():
        for name, layer in unit.named_children():
            if isinstance(layer, SameConv2d):
                setattr(unit, name, layer.with_even_sides())


class _WholeModel(nn.Module):
    """The module with a float32 output, and with preprocessing if `has_preprocessing`.

    Without preprocessing, it maps float32 [N,3,H,W] to logits, float32 [N,C]. With it, it maps
    uint8 [N,H,W,3], or float32 [N,3,H,W] from 0 to 255, to probabilities, float32 [N,C].
    """

    mean: Tensor
    std: Tensor
    scales: Tensor
    biases: Tensor

    def __init__(
        self, module: nn.Module, card: ModelCard, dtype: torch.dtype, *, has_preprocessing: bool
    ) -> None:
        super().__init__()
        self.module = module
        self._dtype = dtype
        self._has_preprocessing = has_preprocessing
        self._temperature, self._has_labels = card.temperature, card.label_scores is not None
        if card.label_scores is not None:
            self.register_buffer("scales", torch.tensor(card.label_scores.scales))
            self.register_buffer("biases", torch.tensor(card.label_scores.biases))
        for name in ("mean", "std"):
            values = torch.tensor(getattr(card.preprocessing, name), dtype=torch.float32)
            self.register_buffer(name, values.reshape(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        if self._has_preprocessing:
            planes = pixels.permute(0, 3, 1, 2) if pixels.dtype == torch.uint8 else pixels
            pixels = (planes.float() / 255 - self.mean) / self.std
        logits: Tensor = self.module(pixels.to(self._dtype)).float()
        if not self._has_preprocessing:
            return logits
        if self._has_labels:
            return (logits * self.scales + self.biases).sigmoid()
        return (logits / self._temperature).softmax(-1)


def _fuse_batch_norm(module: nn.Module) -> None:
    """Fuse each BatchNorm into the convolution before it.

    This halves the time of converters that traverse the graph many times.
    """
    for unit in module.modules():
        conv, norm, *_ = (*unit.children(), None, None)
        if isinstance(unit, nn.Sequential) and isinstance(norm, nn.BatchNorm2d):
            unit[0] = fuse_conv_bn_eval(conv.double(), norm.double()).float()
            unit[1] = nn.Identity()


def _split_means(module: nn.Module) -> None:
    """Replace each average over a whole feature map with `_SplitMean`."""
    for unit in module.modules():
        for name, layer in unit.named_children():
            if isinstance(layer, nn.AdaptiveAvgPool2d):
                setattr(unit, name, _SplitMean())


class _SplitMean(nn.Module):
    """The mean of each channel, [N,C,H,W] -> [N,C,1,1], computed row by row.

    XNNPACK and Inductor add the values one by one, which leaves a mean of the 36,100 floats in b4's
    first gate accurate to only four or five digits.
    """

    def forward(self, values: Tensor) -> Tensor:
        rows = avg_pool2d(values, (1, values.shape[3]))
        return avg_pool2d(rows, (rows.shape[2], 1))
