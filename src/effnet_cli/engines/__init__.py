"""Runtimes that run a model, behind one protocol."""

from effnet_cli.engines.base import (
    Crops,
    DeviceClock,
    Engine,
    Scores,
    ScoresAre,
    scores_of,
    to_probabilities,
)
from effnet_cli.engines.normalise import normalise
from effnet_cli.engines.registry import (
    BATCH_SIZE,
    ENGINES,
    EnginePlan,
    EngineRow,
    list_engines,
    list_installed,
    plan_engine,
)

__all__ = [
    "BATCH_SIZE",
    "ENGINES",
    "Crops",
    "DeviceClock",
    "Engine",
    "EngineRow",
    "EnginePlan",
    "Scores",
    "ScoresAre",
    "list_engines",
    "list_installed",
    "normalise",
    "plan_engine",
    "scores_of",
    "to_probabilities",
]
