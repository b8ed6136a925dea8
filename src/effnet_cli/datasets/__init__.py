"""Datasets: folders or a CSV file -> checked, split, labelled pictures."""

from effnet_cli.datasets.paths import Paths
from effnet_cli.datasets.records import (
    ClassCount,
    Dataset,
    DatasetRefused,
    Finding,
    Level,
    Scan,
    Subset,
    checked,
    difference,
)
from effnet_cli.datasets.scan import scan

__all__ = [
    "ClassCount",
    "Dataset",
    "DatasetRefused",
    "Finding",
    "Level",
    "Paths",
    "Scan",
    "Subset",
    "checked",
    "difference",
    "scan",
]
