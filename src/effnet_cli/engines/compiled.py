"""Compile a model to the ONNX graph that onnxruntime and OpenVINO load, once per set of weights.

The graph is cached. Its file name contains the digests of the weights and of the file itself, so
new weights are never run with an old graph, and a damaged graph is compiled again.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

from effnet_cli.models.card import CARD_KEY
from effnet_cli.models.weights import Model
from effnet_cli.system import files
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.reporter import Reporter

GRAPH_VERSION = "g4"  # part of the file name; increase it when the written graph changes
MAX_PROBABILITY_DIFFERENCE = 1e-3  # from torch fp32; a graph that differs by more is refused


def get_compiled(model: Model, reporter: Reporter) -> Path | bytes:
    """Return the path of an exported file, or else of the cached ONNX file, compiled if needed.

    Returns the bytes of the graph instead if there is no cached file: for a model with a torch
    `module`, or if the cache cannot be written.

    Raises:
        UsageError: the weights do not fit the model.
        EffnetError: the graph differs from torch.
    """
    if model.file_kind != "tensors":
        return model.path
    if model.module is not None:
        return _compile(model)
    return _find_cached(model) or _compile_once(model, reporter)


def _compile_once(model: Model, reporter: Reporter) -> Path | bytes:
    content = b""
    try:
        with files.process_lock(files.compiled_dir() / _stem(model)):
            cached = _find_cached(model)  # another process may have compiled it meanwhile
            if cached:
                return cached
            files.remove_partial_files(files.compiled_dir(), _stem(model))
            reporter.note(
                f"Compiling {model.variant.name} for this machine (once; later starts skip this)"
            )
            content = _compile(model)
            return _cache(model, content)
    except EffnetError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        reporter.note(
            "Cannot write the cache; the model will be recompiled on every run: "
            f"{error.message} Set EFFNET_CACHE to a folder that can be written."
        )
        return content or _compile(model)


def _stem(model: Model) -> str:
    version = GRAPH_VERSION if model.pool == "avg" else f"{model.pool}{GRAPH_VERSION}"
    return f"{model.variant.name}-{model.sha256[: files.DIGEST_CHARS]}-{version}"


def _find_cached(model: Model) -> Path | None:
    for path in files.list_files(files.compiled_dir(), f"{_stem(model)}-*.onnx"):
        with suppress(OSError):  # another process may remove it meanwhile
            if path.stem.endswith(files.cached_sha256(path)[: files.DIGEST_CHARS]):
                return path
    return None


def _cache(model: Model, content: bytes) -> Path:
    digest = hashlib.sha256(content).hexdigest()[: files.DIGEST_CHARS]
    path = files.compiled_dir() / f"{_stem(model)}-{digest}.onnx"
    with files.atomic_write(path) as part:
        part.write_bytes(content)
    return path


def _compile(model: Model) -> bytes:
    """Write the graph of the torch module and compare the two."""
    # imports torch, which a start with a cached graph does not need
    from effnet_cli.engines import onnx_writer
    from effnet_cli.models import build

    crop_px = model.card.preprocessing.crop_px
    module = build.load_module(model)
    metadata = {CARD_KEY: model.card.to_json()}
    content = onnx_writer.build_graph(module, crop_px, metadata, pool=model.pool)
    difference = onnx_writer.max_difference(content, module, crop_px)
    if not difference <= MAX_PROBABILITY_DIFFERENCE:  # NaN too
        raise EffnetError(
            f"The compiled {model.variant.name} differs from torch by {difference:.1e} in a "
            "probability.",
            "Use --engine torch, and report this.",
        )
    return content
