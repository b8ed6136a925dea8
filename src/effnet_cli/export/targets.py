"""What a network can be exported to: literal rows, which the help reads without any library."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from effnet_cli.options import ExportPrecision, TargetName


@dataclass(frozen=True, slots=True)
class Target:
    """One target: `module:function` that writes it, what its files are called, the library it needs
    and how to install that, and what it can be.

    The function is called as `function(source, path)` and writes `path`. `has_open_batch`: the
    number of images in a call may be left open. `layout` is that of normalised images, and
    `image` what takes their place with `--include-preprocessing`. `elsewhere` says where files
    run that nothing here can run; `companions` are the suffixes of further files.
    """

    use: str
    path: str
    ending: str
    library: str
    install: str
    precisions: tuple[ExportPrecision, ...] = ("fp32",)
    quantizes: bool = False
    has_open_batch: bool = True
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    image: Literal["uint8", "image"] = "uint8"
    elsewhere: str | None = None
    companions: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        return "." + self.ending.rpartition(".")[2]


TARGETS: Mapping[TargetName, Target] = {
    "onnx": Target(
        "servers, browsers, almost anything: ONNX Runtime",
        "effnet_cli.export.onnx:write_onnx",
        ".onnx",
        "onnx",
        "pip install effnet-cli",
        ("fp32", "fp16"),
        quantizes=True,
    ),
    "openvino": Target(
        "Intel processors and graphics",
        "effnet_cli.export.onnx:write_openvino",
        ".xml",
        "openvino",
        "pip install 'effnet-cli[openvino]'",
        ("fp32", "fp16"),
        quantizes=True,
        companions=(".bin",),
    ),
    "torch-export": Target(
        "programs with torch, without effnet's code",
        "effnet_cli.export.torch_export:write_torch_export",
        ".pt2",
        "torch",
        "pip install effnet-cli",
        ("fp32", "bf16"),
    ),
    "aotinductor": Target(
        "machine code for this processor, run by torch or C++; needs g++",
        "effnet_cli.export.torch_export:write_aotinductor",
        "-aotinductor.pt2",
        "torch",
        "pip install effnet-cli",
        ("fp32", "bf16"),
    ),
    "litert": Target(
        "Android, edge boards (TensorFlow Lite)",
        "effnet_cli.export.litert:write_litert",
        ".tflite",
        "ai_edge_litert",
        "pip install 'effnet-cli[litert]'",
        ("fp32", "fp16"),
        quantizes=True,
        layout="NHWC",
    ),
    "executorch": Target(
        "phones and embedded devices with PyTorch's runtime (XNNPACK)",
        "effnet_cli.export.torch_export:write_executorch",
        ".pte",
        "executorch",
        "pip install 'effnet-cli[executorch]'",
        has_open_batch=False,
    ),
    "coreml": Target(
        "iPhone, iPad, Mac; written anywhere, run on those only",
        "effnet_cli.export.torch_export:write_coreml",
        ".mlpackage",
        "coremltools",
        "pip install 'effnet-cli[coreml]'",
        ("fp32", "fp16"),
        has_open_batch=False,
        image="image",
        elsewhere="Core ML runs on Apple's devices only",
    ),
}
