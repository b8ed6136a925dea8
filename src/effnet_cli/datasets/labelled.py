"""Labelled images to judge a model on: class folders, one split of several, or a CSV file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.csv_file import read_table, table_listing
from effnet_cli.datasets.folders import Walk
from effnet_cli.datasets.layout import EnginePlan, roles_of, splits_folder
from effnet_cli.datasets.listing import SPLIT_BY_NAME, FileList, LayoutError
from effnet_cli.datasets.paths import Paths
from effnet_cli.datasets.records import SPLITS, TEST, TRAIN, VAL, Finding
from effnet_cli.options import DatasetOptions
from effnet_cli.system.errors import ImageError, UsageError
from effnet_cli.system.text import quote_names

# The split to judge on where a person names none: what training has never seen comes first.
BEST_SPLITS = (TEST, VAL, TRAIN)


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images and the classes that a person has given them.

    `labels` index `classes`; `faults` are the places of what is no file. `split` is the one that
    was taken, `None` where the images are in no splits.
    """

    root: str
    split: str | None
    classes: tuple[str, ...]
    paths: Paths
    labels: npt.NDArray[np.int32]
    faults: Mapping[int, ImageError]
    findings: tuple[Finding, ...]


def load_labelled(root: Path, split: str | None = None) -> LabelledImages:
    """The labelled images of a folder or a CSV file.

    Args:
        root: a folder of class folders, one with splits, or a CSV file.
        split: the name of a split; `None` takes test, else validation, else all there is.

    Raises:
        UsageError: no layout is recognised, there is no such split or no image.
    """
    try:
        if root.is_dir():
            taken, listing = _of_folder(root, split)
        elif root.exists():
            taken, listing = _of_table(root, split)
        else:
            raise LayoutError(
                "missing", f"There is no folder or file {str(root)!r}.", "Check the path."
            )
        if not len(listing.labels):
            raise LayoutError(
                "empty", f"There is no image in {str(root)!r}.", "Name another folder."
            )
    except LayoutError as refused:
        raise UsageError(refused.finding.message, refused.finding.hint) from refused
    except OSError as error:
        raise UsageError(
            f"{str(root)!r} cannot be read: {error.strerror}.", "Check the path."
        ) from error
    errors = [finding for finding in listing.findings if finding.level == "error"]
    if errors:
        raise UsageError(errors[0].message, errors[0].hint)
    return LabelledImages(
        str(root),
        None if taken is None else SPLITS[taken],
        tuple(listing.classes),
        listing.paths,
        listing.labels,
        listing.faults,
        tuple(listing.findings),
    )


def _of_folder(root: Path, split: str | None) -> tuple[int | None, FileList]:
    top, look = splits_folder(root)
    roles = roles_of(look)
    base, taken = top, None
    if roles and len(look.folders) == sum(map(len, roles.values())):
        there = [one for one in BEST_SPLITS if one in roles]
        taken = _wanted(split, there, str(root))
        base = look.path / roles[taken][0]
    elif split is not None:
        raise LayoutError(
            "no_split",
            f"{str(root)!r} has no folder for the split {split!r}.",
            "Leave --split out.",
        )
    findings: list[Finding] = []
    walk = Walk(EnginePlan("", {TRAIN: base}), findings)
    return taken, walk.listing(DatasetOptions(skip_empty=True))


def _of_table(file: Path, split: str | None) -> tuple[int | None, FileList]:
    table = read_table(file)
    taken = None
    if table.has_split:
        there = {row.split for row in table.rows}
        taken = _wanted(split, [one for one in BEST_SPLITS if one in there], str(file))
        table.rows = [replace(row, split=TRAIN) for row in table.rows if row.split == taken]
    elif split is not None:
        raise LayoutError("no_split", f"{str(file)!r} has no column split.", "Leave --split out.")
    return taken, table_listing(file, table)


def _wanted(split: str | None, there: list[int], where: str) -> int:
    if split is None and there:
        return there[0]
    wanted = SPLIT_BY_NAME.get((split or "").lower())
    if wanted not in there:
        names = quote_names([SPLITS[one] for one in there])
        raise LayoutError(
            "no_split", f"{where!r} has no split {split!r}.", f"Use one of those it has: {names}."
        )
    return wanted
