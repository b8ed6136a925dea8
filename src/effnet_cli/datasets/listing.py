"""What every layout comes to: labelled files, or the one reason why there are none."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.paths import Paths
from effnet_cli.datasets.records import SPLITS, Finding
from effnet_cli.system.errors import ImageError
from effnet_cli.system.text import pluralize, quote_names

SPLIT_NAMES = (
    ("train", "training"),
    ("val", "valid", "validation", "dev", "eval"),
    ("test", "testing"),
)
SPLIT_BY_NAME = {name: split for split, names in enumerate(SPLIT_NAMES) for name in names}


class LayoutError(Exception):
    """The files cannot even be listed; ends the scan with this one finding."""

    def __init__(self, kind: str, message: str, hint: str, paths: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.finding = Finding("error", kind, message, hint, max(1, len(paths)), paths)


@dataclass(slots=True)
class FileList:
    """Every file of a dataset, with the place that its folder or row gives it.

    `names` are the paths below the folder of the split, with "/": they stay the same when the
    dataset is moved. `labels` are indexes of `classes`, `splits` of SPLITS. `faults` are the places
    of what was found to be no file. `is_automatic`: validation has yet to be split off train.
    """

    layout: str
    classes: list[str]
    paths: Paths
    names: Paths
    labels: npt.NDArray[np.int32]
    splits: npt.NDArray[np.int8]
    is_automatic: bool
    findings: list[Finding] = field(default_factory=list)
    faults: dict[int, ImageError] = field(default_factory=dict)


def unknown_classes(split: int, names: list[str], where: str) -> Finding:
    """Classes that only validation or test has: the network could never answer them."""
    return Finding(
        "error",
        f"unknown_in_{SPLITS[split]}",
        f"{where!r} has {pluralize(len(names), 'class', 'classes')} that the training images lack: "
        f"{quote_names(names)}.",
        "Add training images of them, or take them out.",
        len(names),
    )
