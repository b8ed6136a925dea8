"""The loader with mutated files, bombs, and decoders that hang, die or use up memory."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

import bad
import good
import written
from effnet_cli.images import decode
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.sandbox import BYTES_PER_PIXEL, SPARE_MEMORY_BYTES, SandboxedLoader
from effnet_cli.models.variants import VARIANTS
from effnet_cli.options import ErrorKind, ImageOptions
from effnet_cli.system.errors import ImageError
from helpers import wait_until

LITE0 = VARIANTS["lite0"].preprocessing
MUTATIONS_A_SEED = 50
# What all bombs together may take beyond what opening a photo takes.
BOMBS_MIB = 220
TIMEOUT_S = 0.7

# as the command does
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def limit_of_pillow() -> Iterator[None]:
    """Restore Pillow's limit, which loaders set for the whole process."""
    before = Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = before


# --- mutations ---------------------------------------------------------------------------------


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change 1 to 8 bytes, half of the time among the first 200."""
    changed = bytearray(data)
    end = len(data) if chance.random() < 0.5 else min(len(data), 200)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(end)] = chance.randrange(256)
    return bytes(changed)


def test_mutated_images_are_opened_or_refused() -> None:
    chance = random.Random(13)
    opener = ImageLoader(LITE0, ImageOptions(max_pixels=1_000_000))
    came: Counter[str] = Counter()
    for data in bad.seeds().values():
        for _ in range(MUTATIONS_A_SEED):
            try:
                crop = opener.load(mutated(data, chance))
            except ImageError as error:
                came[error.kind] += 1
            else:
                assert crop.shape == (1, 224, 224, 3)
                came["opened"] += 1
    assert set(came) <= {"opened", *get_args(ErrorKind)}
    assert came["opened"] > 200
    assert came["truncated"] > 200


# --- bombs -------------------------------------------------------------------------------------

OPEN_THEM = """
import resource, sys, warnings
from effnet_cli.system.errors import ImageError
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.variants import VARIANTS
opener = ImageLoader(VARIANTS["lite0"].preprocessing)
warnings.simplefilter("ignore")
opener.load(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        opener.load(path)
    except ImageError:
        continue
    sys.exit(f"{path} was opened")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_bombs_take_little_memory(tmp_path: Path) -> None:
    paths = []
    for bomb in bad.bombs():
        paths.append(tmp_path / bomb.name)
        paths[-1].write_bytes(bomb.made)
    first = str(good.SAMPLES / "coffee.jpg")
    done = subprocess.run(
        [sys.executable, "-c", OPEN_THEM, first, *map(str, paths)],
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < BOMBS_MIB


def test_scans_are_counted_only_in_jpegs_with_many(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    monkeypatch.setattr(decode, "count_scans", lambda file: counted.append(file) or 1)
    opener = ImageLoader(LITE0)
    seeds = bad.seeds()
    for name in ("baseline.jpg", "inks.jpg", "two.mpo", "rgba.png", "lossy.webp"):
        opener.load(seeds[name])
    opener.load(written.encoded(good.gray(), "JPEG"))
    assert not counted
    opener.load(seeds["progressive.jpg"])
    assert len(counted) == 1


def test_large_transparent_image_is_composited_in_bands() -> None:
    values = np.random.default_rng(0).integers(0, 256, (1200, 1100, 4), dtype=np.uint8)
    image = Image.fromarray(values)
    opener = ImageLoader(LITE0)
    whole = opener.open(written.encoded(image, "PNG", compress_level=0))
    for top in (0, 500, 1100):
        part = image.crop((0, top, 1100, top + 100))
        alone = opener.open(written.encoded(part, "PNG", compress_level=0))
        np.testing.assert_array_equal(np.asarray(whole)[top : top + 100], np.asarray(alone))


# --- decoders in processes of their own ---------------------------------------------------------


@pytest.fixture(scope="module")
def hanging() -> bytes:
    """An image that takes a minute to decode."""
    return bad.with_scans(6_000)


@pytest.fixture(scope="module")
def isolated() -> SandboxedLoader:
    options = ImageOptions(isolate=True, timeout_s=TIMEOUT_S, max_pixels=10**11)
    return SandboxedLoader(LITE0, options)


def fault(opener: SandboxedLoader, source: bytes | str | Path) -> ImageError:
    with pytest.raises(ImageError) as caught:
        opener.load(source)
    return caught.value


def same_as_here(opener: SandboxedLoader, source: bytes | str | Path) -> bool:
    return np.array_equal(opener.load(source), ImageLoader(LITE0).load(source))


def test_sandboxed_image_is_the_same(isolated: SandboxedLoader, tmp_path: Path) -> None:
    for name, data in bad.seeds().items():
        assert same_as_here(isolated, data), name
    odd = tmp_path / os.fsdecode(b"\xff\xfe.png")
    odd.write_bytes(bad.seeds()["rgba.png"])
    assert same_as_here(isolated, odd)
    assert same_as_here(isolated, str(odd))


def test_sandboxed_error_is_the_same(isolated: SandboxedLoader, tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    for source in (b"", b"<html>", b"\xff\xd8\xff", tmp_path / "no.jpg", tmp_path / "folder.jpg"):
        with pytest.raises(ImageError) as here:
            ImageLoader(LITE0).load(source)
        there = fault(isolated, source)
        assert (there.kind, there.message, there.hint) == (
            here.value.kind,
            here.value.message,
            here.value.hint,
        )


def test_hanging_decoder_costs_only_its_image(isolated: SandboxedLoader, hanging: bytes) -> None:
    before = worker_ids()
    error = fault(isolated, hanging)
    assert error.kind == "timeout"
    assert f"{TIMEOUT_S:g} s" in error.message
    assert "--timeout" in error.hint
    assert same_as_here(isolated, bad.seeds()["baseline.jpg"])
    assert worker_ids()
    assert not worker_ids() & before


def test_killed_decoder_costs_only_its_image(hanging: bytes) -> None:
    opener = SandboxedLoader(LITE0, ImageOptions(isolate=True, max_pixels=10**11))
    others = worker_ids()
    opener.load(bad.seeds()["baseline.jpg"])
    (worker,) = worker_ids() - others

    def kill_when_busy() -> None:
        ticks = cpu_ticks(worker)
        while cpu_ticks(worker) < ticks + 5:
            time.sleep(0.01)
        os.kill(worker, signal.SIGKILL)  # as the kernel does when there is no memory left

    threading.Thread(target=kill_when_busy, daemon=True).start()
    error = fault(opener, hanging)
    assert error.kind == "crashed"
    assert "SIGKILL" in error.message
    assert same_as_here(opener, bad.seeds()["baseline.jpg"])
    assert worker not in worker_ids()


def worker_ids() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


def cpu_ticks(process_id: int) -> int:
    """Return the CPU time of a process, in hundredths of a second."""
    words = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit does not exist")
def test_memory_of_a_decoder_is_limited() -> None:
    others = worker_ids()
    opener = SandboxedLoader(LITE0, ImageOptions(isolate=True, max_pixels=1_000_000))
    opener.load(bad.seeds()["baseline.jpg"])
    (worker,) = worker_ids() - others
    limits = Path(f"/proc/{worker}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max address space"))
    status = Path(f"/proc/{worker}/status").read_text()
    (peak_kib,) = (
        words[1] for words in map(str.split, status.splitlines()) if words[0] == "VmPeak:"
    )
    more_bytes = SPARE_MEMORY_BYTES + BYTES_PER_PIXEL * 1_000_000
    assert more_bytes < int(line.split()[3]) <= 1024 * int(peak_kib) + more_bytes


WITH_A_WORKER = """
import os, sys, time
from effnet_cli.images.sandbox import SandboxedLoader
from effnet_cli.options import ImageOptions
from effnet_cli.models.variants import VARIANTS
import multiprocessing

if __name__ == "__main__":
    opener = SandboxedLoader(VARIANTS["lite0"].preprocessing, ImageOptions(isolate=True))
    opener.load(sys.argv[1])
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "asks.py"
    script.write_text(WITH_A_WORKER)
    with subprocess.Popen(
        [sys.executable, str(script), str(good.SAMPLES / "coffee.jpg")], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        assert Path(f"/proc/{worker}").exists()
        process.send_signal(number)
        process.wait(20)
    if not wait_until(lambda: not Path(f"/proc/{worker}").exists()):
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker is still there")
