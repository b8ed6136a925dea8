"""Folders -> labelled files: what lies below the class folders of each split."""

import os
from pathlib import Path

import numpy as np

from effnet_cli.datasets.layout import (
    EnginePlan,
    FolderContents,
    folders_around,
    identity_of,
    list_folder,
    no_classes,
    plan_of,
    splits_folder,
)
from effnet_cli.datasets.listing import FileList, unknown_classes
from effnet_cli.datasets.paths import Paths
from effnet_cli.datasets.records import EXAMPLES, TRAIN, VAL, Finding, Tally
from effnet_cli.images.finder import Finder, SkipReason
from effnet_cli.options import DatasetOptions
from effnet_cli.system.errors import ImageError
from effnet_cli.system.text import pluralize, quote_names

HIDDEN = ("hidden or system entry", "hidden or system entries")


def listed_folder(root: Path, options: DatasetOptions) -> FileList:
    """The labelled files of a folder of classes, or of a folder of splits.

    Raises:
        Refused: no layout is recognised.
    """
    findings: list[Finding] = []
    top, look = splits_folder(root)
    if top != root:
        findings.append(Finding("note", "parent", f"The splits lie in {str(top)!r}."))
    plan = plan_of(root, look, options, findings)
    walk = Walk(plan, findings)
    if top not in plan.bases.values():
        walk.note(look)
    return walk.listing(options)


class Walk:
    """Collects the files below the class folders of a plan."""

    def __init__(self, plan: EnginePlan, findings: list[Finding]) -> None:
        self.plan = plan
        self.findings = findings
        self.passed_over: dict[SkipReason, Tally] = {
            "ignored": Tally(),
            "not_image": Tally(),
            "already_visited": Tally(),
        }
        self.loose = Tally()
        self.nested = Tally()
        self.paths: list[bytes] = []
        self.names: list[bytes] = []
        self.labels: list[int] = []
        self.splits: list[int] = []
        self.faults: dict[int, ImageError] = {}

    def note(self, look: FolderContents) -> None:
        """Count what lies beside class folders or splits without being one."""
        self.loose.join(look.images)
        self.passed_over["ignored"].join(look.ignored)
        self.passed_over["already_visited"].join(look.loops)

    def listing(self, options: DatasetOptions) -> FileList:
        classes, empty = self._collect_train(options)
        for split in sorted(self.plan.bases)[1:]:
            self._collect_held_out(split, classes, empty)
        self._tell()
        return FileList(
            self.plan.layout,
            list(classes),
            Paths(map(os.fsdecode, self.paths)),
            Paths(map(os.fsdecode, self.names)),
            np.array(self.labels, dtype=np.int32),
            np.array(self.splits, dtype=np.int8),
            VAL not in self.plan.bases,
            self.findings,
            self.faults,
        )

    def _collect_train(self, options: DatasetOptions) -> tuple[dict[str, int], list[str]]:
        """The index of each class, and the classes without a file."""
        classes: dict[str, int] = {}
        empty: list[str] = []
        for name in self._class_folders(TRAIN):
            is_empty = not self._collect(TRAIN, name, len(classes))
            if is_empty:
                empty.append(name)
            if not (is_empty and options.skip_empty):
                classes[name] = len(classes)
        if empty:
            self.findings.append(_empty_classes(empty, self.plan.bases[TRAIN], options.skip_empty))
        return classes, empty

    def _collect_held_out(self, split: int, classes: dict[str, int], empty: list[str]) -> None:
        base = self.plan.bases[split]
        unknown = []
        for name in self._class_folders(split):
            if name in classes:
                self._collect(split, name, classes[name])
            elif name not in empty and any(found.source for found in Finder([str(base / name)])):
                unknown.append(name)
        if unknown:
            self.findings.append(unknown_classes(split, unknown, str(base)))

    def _class_folders(self, split: int) -> list[str]:
        look = list_folder(self.plan.bases[split])
        self.note(look)
        names = [n for n in look.folders if split != TRAIN or n not in self.plan.not_classes]
        if split == TRAIN and not names:
            raise no_classes(look.path, look)
        return sorted(names)

    def _collect(self, split: int, name: str, label: int) -> bool:
        """Add the files of a class; whether there are any."""
        base = os.fsencode(self.plan.bases[split])
        folder = str(self.plan.bases[split] / name)
        around = folders_around(Path(folder)) - {identity_of(folder)}
        before = len(self.paths)
        for found in Finder([folder], on_skip=self._heard, outer_folders=around):
            if found.error is not None:
                if found.name == folder and found.error.kind == "not_a_file":
                    return False
                self.faults[len(self.paths)] = found.error
            path = os.fsencode(found.name)
            self.paths.append(path)
            self.names.append(path[len(base) :].lstrip(b"/"))
            if path.count(b"/") > os.fsencode(folder).count(b"/") + 1:
                self.nested.add(found.name)
            self.labels.append(label)
            self.splits.append(split)
        return len(self.paths) > before

    def _heard(self, why: SkipReason, path: str) -> None:
        self.passed_over[why].add(path)

    def _tell(self) -> None:
        """Findings for what was counted on the way."""
        ignored, others, again = (
            self.passed_over[why] for why in ("ignored", "not_image", "already_visited")
        )
        self.findings += self.loose.finding(
            "warning",
            "no_class",
            f"{pluralize(self.loose.count, 'image')} outside of the class folders left out: "
            "no folder says what the class is.",
            "Move them into the folder of their class.",
        )
        self.findings += ignored.finding(
            "note",
            "system_files",
            f"{pluralize(ignored.count, *HIDDEN)} ignored.",
        )
        self.findings += others.finding(
            "note",
            "not_images",
            f"{pluralize(others.count, 'file')} left out for not being an image.",
        )
        self.findings += again.finding(
            "warning",
            "link_loop",
            f"{pluralize(again.count, 'folder')} reached again through links; "
            "the images in them count once.",
            "Delete the links that lead back.",
        )
        self.findings += self.nested.finding(
            "note",
            "nested",
            f"{pluralize(self.nested.count, 'image')} in folders inside a class folder: "
            "the first folder is the class.",
        )


def _empty_classes(names: list[str], base: Path, is_skipped: bool) -> Finding:
    many = pluralize(len(names), "class folder", "class folders")
    return Finding(
        "note" if is_skipped else "error",
        "empty_class",
        f"{many} without an image{' left out' if is_skipped else ''}: {quote_names(names)}.",
        "" if is_skipped else "Put images in, or leave them out with --skip-empty.",
        len(names),
        tuple(str(base / name) for name in names[:EXAMPLES]),
    )
