"""EfficientNet image classification, from the terminal and from Python."""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effnet_cli.embed.embedder import Embedder
    from effnet_cli.predict.classifier import Classifier
    from effnet_cli.search.index import Index
    from effnet_cli.system.errors import EffnetError

# Nothing that effnet loads may report its use over the network: onnxruntime on Linux does so unless
# this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["Classifier", "EffnetError", "Embedder", "Index", "__version__"]
_MODULES = {
    "Classifier": "effnet_cli.predict.classifier",
    "EffnetError": "effnet_cli.system.errors",
    "Embedder": "effnet_cli.embed.embedder",
    "Index": "effnet_cli.search.index",
}


def __getattr__(name: str) -> object:
    """Import on first use: the command line does not need everything."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
