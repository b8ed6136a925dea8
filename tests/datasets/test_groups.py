"""Groups of images, such as patients, that stay on one side of a split."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_files import counts, fill, get_error, get_finding, kinds, png, put
from effnet_cli.datasets.groups import join_groups, link_members
from effnet_cli.datasets.labelled import load_labelled
from effnet_cli.datasets.scan import scan
from effnet_cli.datasets.split import assign_folds, choose_validation
from effnet_cli.options import DatasetOptions, LabelOptions

images = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=120
)  # class and group


@given(images, st.floats(0.05, 0.95), st.integers(0, 2**32))
@settings(max_examples=300)
def test_no_group_is_ever_on_two_sides(
    rows: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    labels, groups = (np.array(column) for column in zip(*rows, strict=True))
    keys = np.random.default_rng(0).integers(0, 256, (13, 32), dtype=np.uint8)
    chosen = choose_validation(labels.astype(np.int32), groups, keys, fraction=fraction, seed=seed)
    for group in np.unique(groups):
        assert len(np.unique(chosen[groups == group])) == 1
    for label in np.unique(labels):
        assert not chosen[labels == label].all()
    folds = assign_folds(labels.astype(np.int32), groups.astype(np.int32), 5, seed=seed % 2**31)
    for group in np.unique(groups):
        assert len(np.unique(folds[groups == group])) == 1


@given(st.lists(st.integers(-1, 6), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_members_of_a_number_and_what_they_are_joined_to_are_one_group(
    numbers: list[int], random: object
) -> None:
    count = len(numbers)
    row = np.array(numbers, dtype=np.int32)
    near = np.sort(np.random.default_rng(count).integers(0, count, (3, 2)), axis=1)
    found = join_groups(count, (near[:, 0], near[:, 1]), link_members(np.arange(count), row))
    for number in {*numbers} - {-1}:
        assert len(np.unique(found[row == number])) == 1
    assert (found[near[:, 0]] == found[near[:, 1]]).all()
    assert (found <= np.arange(count)).all()


def write_patients(folder: str = "d", patients: int = 12, per_patient: int = 4) -> Path:
    """Write images of patients, each of whom has images of both classes."""
    rows = ["path,label,patient_id"]
    for patient in range(patients):
        for number in range(per_patient):
            label = ("ill", "well")[(patient + number) % 2]
            name = f"p{patient:02}_{number}.png"
            put(f"{folder}/images/{name}", png(1000 * patient + number))
            rows.append(f"images/{name},{label},P{patient}")
    put(f"{folder}/list.csv", "\n".join(rows).encode())
    return Path(folder, "list.csv")


@pytest.mark.parametrize(
    "options",
    [{"group_column": "patient_id"}, {"group_pattern": "(p[0-9]+)_"}, {"group_pattern": "p[0-9]+"}],
)
def test_patients_are_not_divided(options: dict[str, str]) -> None:
    result = scan(write_patients(), DatasetOptions(**options))  # type: ignore[arg-type]
    assert result.dataset is not None
    train, val = (
        {Path(path).name[:3] for path in part.paths}
        for part in (result.dataset.train, result.dataset.val)
    )
    assert not train & val
    assert 1 <= len(val) <= 4
    assert get_finding(result, "groups").count == 12


def test_without_the_option_the_column_is_proposed() -> None:
    result = scan(write_patients())
    finding = get_finding(result, "ignored_columns")
    assert "'patient_id'" in finding.message
    assert "--group-column" in finding.hint


def test_a_given_split_of_a_group_is_a_leak() -> None:
    for split, numbers in {"train": range(10), "val": range(8, 13)}.items():
        for label in ("cat", "dog"):
            for number in numbers:
                put(f"d/{split}/{label}/v{number}_{split}.png")
    error = get_error(group_pattern="v([0-9]+)_")
    finding = get_finding(error.scan, "group_leak")
    assert finding.count == 2
    assert [Path(path).name for path in finding.paths[:2]] == ["v8_train.png", "v8_val.png"]
    allowed = scan(Path("d"), DatasetOptions(group_pattern="v([0-9]+)_", allow_leak=True))
    assert kinds(allowed, "error") == []
    assert kinds(allowed, "warning").count("group_leak") == 1


def test_a_pattern_may_name_the_group() -> None:
    write_patients()
    pattern = "(?P<group>p[0-9]+)_(?P<label>[0-9])"
    result = scan(Path("d/images"), DatasetOptions(label_pattern=pattern))
    assert list(counts(result)) == ["0", "1", "2", "3"]
    assert get_finding(result, "groups").count == 12


def test_evaluation_knows_the_groups() -> None:
    data = load_labelled(write_patients(), options=LabelOptions(group_column="patient_id"))
    names = [Path(path).name[:3] for path in data.paths]
    pairs = set(zip(names, data.groups.tolist(), strict=True))
    assert len(pairs) == len(set(names)) == 12


def test_an_invalid_pattern_of_groups_is_refused() -> None:
    fill("d/cat")
    fill("d/dog")
    error = get_error(group_pattern="(")
    assert "--group-pattern '('" in error.message
