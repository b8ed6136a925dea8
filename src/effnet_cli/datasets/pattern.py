"""Datasets whose labels are in the paths of the images, by a regular expression."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effnet_cli.datasets.findings import Counters, error, warning
from effnet_cli.datasets.listing import LayoutError
from effnet_cli.datasets.rows import DatasetRow, RowSource, collect_rows, describe_rows
from effnet_cli.datasets.split import TRAIN, parse_split
from effnet_cli.images.finder import Finder

LABEL, SPLIT, GROUP = "label", "split", "group"  # names of groups
EXAMPLE = r"Use a group for the label, e.g. '^([^/]+)/' for the first folder."
# Patterns of file names that end in a number, from which a suggestion is chosen.
SUGGESTED = (r"([A-Za-z][^/]*?)[ ._-]*\(?\d+\)?\.\w+$",)
MIN_IMAGES_PER_LABEL = 2


@dataclass(slots=True, kw_only=True)
class PatternSource(RowSource):
    """A dataset of the images below a folder."""

    counted = (
        *RowSource.counted,
        (warning, "no_match", "image", "skipped: --label-pattern does not match.", "Check it."),
        (error, "unknown_split", "image", "in an unknown split.", "Use train, val or test."),
    )


def open_pattern(root: Path, text: str) -> PatternSource:
    """Find the images below `root`, and take their labels from their paths relative to it.

    Raises:
        LayoutError: the pattern is not valid, or matches no image.
    """
    pattern, counters = compile_pattern(text), Counters()
    found = (one.name for one in Finder([str(root)]) if Path(one.name) != root)
    paths = ((name, Path(name).relative_to(root).as_posix()) for name in found)
    rows = collect_rows(match_path(pattern, paths, counters))
    if not rows.classes:
        images = counters["no_match"].examples
        message = f"--label-pattern {text!r} matches none of the images in {str(root)!r}."
        raise LayoutError("no_match", message, EXAMPLE, paths=images)
    layout = f"labels from paths, by {text!r}"
    return PatternSource(
        layout=layout,
        notes=[describe_rows(layout, rows)],
        has_splits=SPLIT in pattern.groupindex,
        splits=set(np.unique(rows.splits).tolist()),
        counters=counters,
        rows=rows,
    )


def suggest_pattern(names: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return a pattern that finds a few labels in names of files, and these labels."""
    for text in SUGGESTED:
        found = [re.search(text, name) for name in names]
        labels = [match[1] for match in found if match is not None]
        distinct = sorted(set(labels))
        if len(labels) == len(names) >= MIN_IMAGES_PER_LABEL * len(distinct) > MIN_IMAGES_PER_LABEL:
            return text, distinct
    return None


def compile_group_pattern(text: str | None) -> re.Pattern[str] | None:
    """Compile the pattern of groups, if there is one.

    Raises:
        LayoutError: it is not valid.
    """
    example = "Use for example '(patient[0-9]+)'."
    return None if text is None else _compile("--group-pattern", text, example)


def _compile(flag: str, text: str, hint: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as fault:
        message = f"{flag} {text!r} is not a valid regular expression: {fault}."
        raise LayoutError("bad_pattern", message, hint) from fault


def compile_pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern of labels.

    Raises:
        LayoutError: it is not valid, or has no group for the label.
    """
    pattern = _compile("--label-pattern", text, EXAMPLE)
    if LABEL not in pattern.groupindex and pattern.groups != 1:
        message = f"--label-pattern {text!r} has {pattern.groups} groups; it must have one."
        raise LayoutError("bad_pattern", message, EXAMPLE)
    return pattern


def match_path(
    pattern: re.Pattern[str], paths: Iterable[tuple[str, str]], counters: Counters
) -> Iterator[DatasetRow]:
    """Yield the rows of images, given as (path, what the pattern is matched with)."""
    group = LABEL if LABEL in pattern.groupindex else 1
    for path, text in paths:
        match = pattern.search(text)
        is_split = match is not None and SPLIT in pattern.groupindex
        split = parse_split(match[SPLIT] or "") if match and is_split else TRAIN
        if match is None or not match[group]:
            counters["no_match"].add(path)
        elif split is None:
            counters["unknown_split"].add(f"{path} ({match[SPLIT]!r})")
        else:
            common = match[GROUP] or "" if GROUP in pattern.groupindex else ""
            yield DatasetRow(path, match[group], split, group=common)
