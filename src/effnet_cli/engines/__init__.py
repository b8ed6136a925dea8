"""Runtimes that run a model, behind one protocol."""

from effnet_cli.engines.base import DeviceClock, Engine, Logits, Pixels, softmax
from effnet_cli.engines.registry import (
    AUTO,
    BATCH_SIZE,
    ENGINES,
    EnginePlan,
    EngineRow,
    list_installed,
    plan_engine,
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
    "EnginePlan",
    "list_installed",
    "plan_engine",
    "softmax",
]
