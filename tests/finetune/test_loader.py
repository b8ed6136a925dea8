"""Batches of crops, which do not depend on threads or the cache."""

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.finetune.loader import BatchLoader, CacheBudget, split_chunks
from effnet_cli.images.augment import POLICIES, Augmentation
from helpers import RecordingReporter, save_image
from training_parts import CROP_PX, LOADER, make_loader, make_subset

pytestmark = pytest.mark.usefixtures("one_thread")


@given(st.integers(0, 100), st.lists(st.integers(0, 60)))
def test_budget_is_never_exceeded(limit: int, sizes: list[int]) -> None:
    budget, reserved = CacheBudget(limit), 0
    for size in sizes:
        is_reserved = budget.reserve(size)
        assert is_reserved == (reserved + size <= limit)
        reserved += size * is_reserved
    assert reserved <= limit


def test_default_budget_is_a_fraction_of_the_free_memory() -> None:
    budget = CacheBudget()
    assert budget.reserve(1 << 20)
    assert not budget.reserve(1 << 50)


def test_budget_is_shared_by_threads() -> None:
    budget, reserved = CacheBudget(4000), []

    def reserve() -> None:
        reserved.append(sum(budget.reserve(1) for _ in range(2000)))

    threads = [threading.Thread(target=reserve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(reserved) == 4000


def test_crops_equal_those_of_predict(image_folder: Path) -> None:
    images = make_loader(image_folder)
    for _ in range(2):  # decoded, then cached
        batch = images.load_batch(np.arange(len(images)), None)
        assert list(batch.indexes) == list(range(len(images)))
        for index, crop in zip(batch.indexes, batch.crops, strict=True):
            path = make_subset(image_folder).paths[int(index)]
            assert np.array_equal(crop, LOADER.crop(LOADER.open(path)))


@pytest.mark.parametrize("crop_px", [16, CROP_PX, 48])
@pytest.mark.parametrize(
    "cache_bytes", [0, 20_000, 1 << 30], ids=["no cache", "small cache", "cache"]
)
@pytest.mark.parametrize("workers", [1, 4])
def test_batches_do_not_depend_on_threads_or_memory(
    cache_bytes: int, workers: int, crop_px: int, image_folder: Path
) -> None:
    order = np.random.default_rng(0).permutation(14)

    def load_epochs(images: BatchLoader) -> list[tuple[bytes, list[int]]]:
        found = []
        for epoch in (1, 2, 1):
            views = Augmentation(POLICIES["strong"], crop_px, (7, epoch))
            for batch in images.load_batches(split_chunks(order, 4), views):
                assert batch.crops.shape[1:] == (crop_px, crop_px, 3)
                found.append((batch.crops.tobytes(), batch.indexes.tolist()))
        return found

    found = load_epochs(make_loader(image_folder, cache_bytes, workers))
    assert found == load_epochs(make_loader(image_folder, 0, 1))
    assert found[:4] == found[8:] != found[4:8]
    assert [index for _, part in found[:4] for index in part] == order.tolist()


def test_augmentation_depends_on_seeds_and_index_only(image_folder: Path) -> None:
    views = Augmentation(POLICIES["strong"], CROP_PX, (1, 2))
    together = make_loader(image_folder).load_batch(np.arange(6), views)
    for index in range(6):
        alone = make_loader(image_folder).load_batch(np.array([index]), views)
        assert np.array_equal(alone.crops[0], together.crops[index])


def test_unreadable_images_are_reported_once(image_folder: Path, tmp_path: Path) -> None:
    for path in image_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    reporter = RecordingReporter()
    images = make_loader(tmp_path, reporter=reporter)
    (tmp_path / "03.png").unlink()
    (tmp_path / "05.png").write_bytes((tmp_path / "05.png").read_bytes()[:60])
    indexes, views = np.arange(14), Augmentation(POLICIES["light"], CROP_PX, (0,))
    for augmentation in (None, views, None, views):
        batches = list(images.load_batches(split_chunks(indexes, 5), augmentation))
        loaded = np.concatenate([batch.indexes for batch in batches])
        assert loaded.tolist() == [index for index in range(14) if index not in (3, 5)]
        assert [len(batch.crops) for batch in batches] == [4, 4, 4]
    assert images.lost == {3, 5}
    assert sorted(note.split(":")[0] for note in reporter.notes) == [
        f"Skipped {tmp_path / '03.png'}",
        f"Skipped {tmp_path / '05.png'}",
    ]


def test_batch_of_unreadable_images_is_empty(image_folder: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "x.png", 0)
    images = make_loader(tmp_path)
    (tmp_path / "x.png").unlink()
    for augmentation, size in ((None, CROP_PX), (Augmentation(POLICIES["light"], 16, (0,)), 16)):
        batch = images.load_batch(np.array([0]), augmentation)
        assert batch.crops.shape == (0, size, size, 3)
        assert batch.crops.dtype == np.uint8
        assert batch.indexes.tolist() == []


@given(st.integers(0, 50), st.integers(1, 60))
def test_chunks_contain_every_index_in_order(count: int, size: int) -> None:
    parts = list(split_chunks(np.arange(count), size))
    assert all(len(part) == size for part in parts[:-1])
    assert [index for part in parts for index in part] == list(range(count))
