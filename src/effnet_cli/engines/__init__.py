"""Runtimes that run a model, behind one protocol."""

from effnet_cli.engines.base import DeviceClock, Engine, Logits, Pixels, probabilities
from effnet_cli.engines.registry import (
    AUTO,
    BATCH_SIZE,
    ENGINES,
    EngineRow,
    Plan,
    installed,
    plan,
)

__all__ = [
    "AUTO",
    "BATCH_SIZE",
    "ENGINES",
    "DeviceClock",
    "Engine",
    "EngineRow",
    "Logits",
    "Pixels",
    "Plan",
    "installed",
    "plan",
    "probabilities",
]
