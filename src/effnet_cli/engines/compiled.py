"""The compiled form of a network that onnxruntime and OpenVINO load: made once per set of weights,
then cached.

Its name carries the digests of the weights and of itself, so that new weights never meet an old
artefact and a damaged one is made again.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

from effnet_cli.models.weights import Model
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.files import (
    DIGEST_CHARS,
    atomic_write,
    cached_sha256,
    compiled_dir,
    process_lock,
    remove_partial_files,
)
from effnet_cli.system.reporter import Reporter

# Part of the name: raise it when the graph that is written changes.
GRAPH_VERSION = "g2"
# What an artefact must reach against torch in fp32 before it is kept.
MAX_PROBABILITY_DIFFERENCE = 1e-3


def get_compiled(network: Model, reporter: Reporter) -> Path | bytes:
    """The compiled form of a network: the file that was exported, else the cached ONNX file, else
    one made now; its bytes where no cache can be written.

    Raises:
        UsageError: the weights are not the network's.
        EffnetError: what was made answers differently from torch.
    """
    if network.file_kind != "tensors":  # an exported network is compiled already
        return network.path
    if network.module is not None:
        return _made(network)
    cached = _cached(network)
    if cached:
        return cached
    made = b""
    try:
        with process_lock(compiled_dir() / _stem(network)):
            cached = _cached(network)  # another process may have made it meanwhile
            if cached:
                return cached
            remove_partial_files(compiled_dir(), _stem(network))
            reporter.note(
                f"Compiling {network.variant.name} for this machine (once; later starts skip this)"
            )
            made = _made(network)
            return _kept(network, made)
    except EffnetError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        reporter.note(f"Every start will be as slow as this one: {error.message}")
        return made or _made(network)


def _stem(network: Model) -> str:
    return f"{network.variant.name}-{network.sha256[:DIGEST_CHARS]}-{GRAPH_VERSION}"


def _cached(network: Model) -> Path | None:
    for path in compiled_dir().glob(f"{_stem(network)}-*.onnx"):
        with suppress(OSError):  # another process may drop it meanwhile
            if path.stem.endswith(cached_sha256(path)[:DIGEST_CHARS]):
                return path
    return None


def _kept(network: Model, made: bytes) -> Path:
    digest = hashlib.sha256(made).hexdigest()[:DIGEST_CHARS]
    path = compiled_dir() / f"{_stem(network)}-{digest}.onnx"
    with atomic_write(path) as part:
        part.write_bytes(made)
    return path


def _made(network: Model) -> bytes:
    """The graph, written from the torch network and compared with it."""
    # torch is imported here only: when there is an artefact, a start does without it
    from effnet_cli.engines import onnx_writer
    from effnet_cli.models import build

    crop_px = network.card.preprocessing.crop_px
    module = build.load_module(network)
    made = onnx_writer.build_graph(module, crop_px, {"effnet": network.card.to_json()})
    difference = onnx_writer.max_difference(made, module, crop_px)
    if not difference <= MAX_PROBABILITY_DIFFERENCE:  # NaN too
        raise EffnetError(
            f"The compiled {network.variant.name} answers differently from torch "
            f"(probabilities by {difference:.1e}).",
            "Use --engine torch, and report this.",
        )
    return made
