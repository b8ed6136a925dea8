"""Labelled images to evaluate a model on: one split of a dataset in any format."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.formats import open_source
from effnet_cli.datasets.groups import GroupNumbers
from effnet_cli.datasets.label_sets import LabelSets, Targets
from effnet_cli.datasets.listing import (
    LayoutError,
    Source,
    list_labels,
    number_label_sets,
    read_files,
)
from effnet_cli.datasets.paths import Paths
from effnet_cli.datasets.pattern import compile_group_pattern
from effnet_cli.datasets.split import SPLIT_BY_NAME, SPLITS, TEST, TRAIN, VAL
from effnet_cli.options import LabelOptions
from effnet_cli.system.errors import UsageError
from effnet_cli.system.text import quote_names

# Findings about how a dataset was read, which `evaluate` tells, too.
TOLD = ("read_as", "moved_images", "unused_files", "unused_tables", "ignored_columns", "groups")
EVALUATION_ORDER = (TEST, VAL, TRAIN)  # without --split: images unseen in training come first


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images and their classes. `labels` are indexes into `classes`, `groups` numbers of groups
    (-1 for none). `split` is the split that was read, or `None` if the dataset has no splits.
    `notes` say how it was read. With `label_sets`, images have several labels or none, and `labels`
    are indexes of the sets.
    """

    root: str
    split: str | None
    classes: tuple[str, ...]
    paths: Paths
    labels: npt.NDArray[np.int32]
    groups: npt.NDArray[np.int32]
    notes: tuple[str, ...] = ()
    label_sets: LabelSets | None = None

    @property
    def targets(self) -> Targets:
        """Which classes each image has [N,C]."""
        sets = np.eye(len(self.classes), dtype=np.bool_)
        if self.label_sets is not None:
            sets = self.label_sets.targets
        targets: Targets = sets[self.labels]
        return targets

    def select(self, indexes: npt.NDArray[np.intp]) -> "LabelledImages":
        """Return the images at `indexes`."""
        return replace(
            self,
            paths=self.paths.take(indexes),
            labels=self.labels[indexes],
            groups=self.groups[indexes],
        )


def load_labelled(
    root: Path,
    split: str | None = None,
    options: LabelOptions = LabelOptions(),
    *,
    is_optional: bool = False,
) -> LabelledImages:
    """Load the labelled images of a dataset; `options` say where the labels are.

    `split` is the name of a split. `None` reads test, else validation, else training, which is all
    images in a dataset without splits. With `is_optional`, training images are also read if there
    is no such split.

    Raises:
        UsageError: the dataset cannot be read, or lacks the split or images.
    """
    try:
        source = open_source(root, options)
        chosen = _choose_split(source, split, str(root), is_optional=is_optional)
        groups = GroupNumbers(root, compile_group_pattern(options.group_pattern))
        files = read_files(source, chosen, groups)
    except LayoutError as fault:
        raise UsageError(fault.finding.message, fault.finding.hint) from fault
    for finding in source.findings():
        if finding.level == "error":
            raise UsageError("\n".join([finding.message, *finding.paths]), finding.hint)
    if not len(files.paths):
        raise UsageError(f"No images found in {str(root)!r}.", "Use another folder.")
    if options.multi_label:
        classes = list_labels(files)
        files, label_sets, _ = number_label_sets([files], classes)
    else:
        label_sets = None
        classes = sorted({files.classes[label] for label in np.unique(files.labels)})
        files = files.select(classes)
    return LabelledImages(
        root=str(root),
        split=SPLITS[chosen] if source.has_splits else None,
        classes=tuple(classes),
        paths=files.paths,
        labels=files.labels,
        groups=files.groups,
        notes=tuple(
            f"{one.message} {one.hint}".strip()
            for one in (*source.findings(), *groups.findings())
            if one.kind in TOLD
        ),
        label_sets=label_sets,
    )


def _choose_split(source: Source, name: str | None, root: str, *, is_optional: bool) -> int:
    available = [split for split in EVALUATION_ORDER if split in source.splits]
    if name is None:
        return available[0] if available else TRAIN
    chosen = SPLIT_BY_NAME.get(name.lower())
    is_missing = not source.has_splits or (chosen not in available and TRAIN in available)
    if is_optional and is_missing and chosen is not None:
        return TRAIN
    if not source.has_splits:
        raise LayoutError("no_split", f"{root!r} has no split {name!r}.", "Omit --split.")
    if chosen not in available:
        names = quote_names([SPLITS[split] for split in available])
        raise LayoutError("no_split", f"{root!r} has no split {name!r}.", f"Use one of {names}.")
    return chosen
