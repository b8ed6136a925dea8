"""Datasets: folders or a CSV file -> checked, split, labelled images."""

from effnet_cli.datasets.paths import Paths
from effnet_cli.datasets.records import (
    ClassCount,
    Dataset,
    DatasetRefused,
    Finding,
    Level,
    Scan,
    Subset,
    count_changes,
    require_dataset,
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
    "require_dataset",
    "count_changes",
    "scan",
]
