"""The export targets, as literal rows that can be read without importing any library."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from effnet_cli.options import ExportPrecision, TargetName


@dataclass(frozen=True, slots=True)
class Target:
    """One export target.

    `writer` is the `module:function` that writes a file, called as `function(source, path)`.
    `ending` is how the file's name ends, `suffix` its last part, and `companions` are the suffixes
    of further files. `library` is the import name of the required library, and `extra` the extra
    that installs it. `layout` is the layout of normalised images, and `image` the input type with
    `--include-preprocessing`. `has_open_batch`: the number of images per call may stay open.
    `has_features`: a file can also output the features. If it can output feature maps, `map_loader`
    is the `module:function` that loads such a file as a function of pixels.
    `weight_bits` is the number of bits that int8 weights use. `not_compared` says why the files
    cannot run here. Without `has_graph` the export is a new folder of weights, which has its own
    JSON, and no batch size or preprocessing of its own.
    """

    use: str
    writer: str
    ending: str
    library: str
    extra: str | None = None
    precisions: tuple[ExportPrecision, ...] = ("fp32", "fp16")
    has_int8: bool = False
    weight_bits: int = 7
    has_open_batch: bool = True
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    image: Literal["uint8", "image"] = "uint8"
    not_compared: str | None = None
    companions: tuple[str, ...] = ()
    has_graph: bool = True
    has_features: bool = False
    map_loader: str | None = None

    @property
    def suffix(self) -> str:
        return "." + self.ending.rpartition(".")[2] if self.has_graph else ""

    @property
    def form(self) -> str:
        """What is written: the suffix of a file, or a folder."""
        return self.suffix or "folder"

    def list_files(self, path: Path) -> list[Path]:
        """Return the exported file at `path` and its companions, without the JSON."""
        return [path, *map(path.with_suffix, self.companions)]

    @property
    def install(self) -> str:
        return f"pip install 'effnet-cli[{self.extra}]'" if self.extra else "pip install effnet-cli"


TARGETS: Mapping[TargetName, Target] = {
    "onnx": Target(
        use="servers, browsers, almost anything: ONNX Runtime",
        writer="effnet_cli.export.onnx:write_onnx",
        ending=".onnx",
        library="onnx",
        has_int8=True,
        has_features=True,
        map_loader="effnet_cli.export.onnx:load_maps",
    ),
    "openvino": Target(
        use="Intel processors and graphics",
        writer="effnet_cli.export.onnx:write_openvino",
        ending=".xml",
        library="openvino",
        extra="openvino",
        has_int8=True,
        has_features=True,
        companions=(".bin",),
    ),
    "torch-export": Target(
        use="programs with torch, without effnet's code",
        writer="effnet_cli.export.torch_export:write_torch_export",
        ending=".pt2",
        library="torch",
        precisions=("fp32", "bf16"),
        map_loader="effnet_cli.export.torch_export:load_maps",
    ),
    "aotinductor": Target(
        use="machine code for this CPU (torch, C++); needs g++",
        writer="effnet_cli.export.torch_export:write_aotinductor",
        ending="-aotinductor.pt2",
        library="torch",
        precisions=("fp32", "bf16"),
    ),
    "litert": Target(
        use="Android, edge boards (TensorFlow Lite)",
        writer="effnet_cli.export.litert:write_litert",
        ending=".tflite",
        library="ai_edge_litert",
        extra="litert",
        has_int8=True,
        weight_bits=8,  # its kernels add up in 32 bits on every processor
        layout="NHWC",
    ),
    "executorch": Target(
        use="phones, embedded devices (PyTorch, XNNPACK)",
        writer="effnet_cli.export.torch_export:write_executorch",
        ending=".pte",
        library="executorch",
        extra="executorch",
        precisions=("fp32",),
        has_open_batch=False,
    ),
    "coreml": Target(
        use="iPhone, iPad, Mac; runs only on Apple devices",
        writer="effnet_cli.export.torch_export:write_coreml",
        ending=".mlpackage",
        library="coremltools",
        extra="coreml",
        has_open_batch=False,
        image="image",
        not_compared="Core ML runs only on Apple devices",
    ),
    "hub": Target(
        use="sharing on the Hugging Face Hub; timm",
        writer="effnet_cli.export.hub:write_hub_folder",
        ending="-hub",
        library="torch",
        precisions=("fp32",),
        has_graph=False,
    ),
}
