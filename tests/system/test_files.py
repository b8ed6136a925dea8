"""Atomic files, one creator among several processes, cached digests."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.system import files as cache
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.files import atomic_write, cached_sha256, process_lock, sha256

OLD, NEW = b"old " * 50_000, b"new " * 50_000
SECOND_NS = 1_000_000_000


@pytest.fixture(autouse=True)
def isolated_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose digests were computed."""
    paths: list[Path] = []

    def counting(path: Path) -> str:
        paths.append(path)
        return sha256(path)

    monkeypatch.setattr(cache, "sha256", counting)
    return paths


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rewrite_later(path: Path, content: bytes) -> None:
    """Write `content` with a modification time one second later."""
    time_ns = path.stat().st_mtime_ns + SECOND_NS
    path.write_bytes(content)
    os.utime(path, ns=(time_ns, time_ns))


def raise_disk_full(*_: object) -> None:
    raise OSError(28, "No space left on device")


# --- cache folder -----------------------------------------------------------------------------


def test_cache_dir_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.cache_dir() == tmp_path / "cache"
    assert cache.compiled_dir() == tmp_path / "cache" / "compiled"
    monkeypatch.setenv("EFFNET_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folder = cache.cache_dir()
    assert folder.is_relative_to(tmp_path / "home")
    assert folder.name.lower() == "effnet"
    assert not folder.exists()


# --- atomic writes ----------------------------------------------------------------------------


def test_file_appears_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file.bin"
    with atomic_write(path) as part:
        assert part.parent == path.parent  # otherwise it could not be renamed
        part.write_bytes(NEW)
        assert not path.exists()
    assert path.read_bytes() == NEW
    assert files_in(path.parent) == ["file.bin"]


def test_file_is_replaced_when_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    with atomic_write(path) as part:
        part.write_bytes(NEW)
        assert path.read_bytes() == OLD
    assert path.read_bytes() == NEW


@pytest.mark.linux
def test_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "file.bin") as part:
            part.write_bytes(NEW)
    finally:
        after = os.umask(before)
    assert after == 0o027
    assert (tmp_path / "file.bin").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "error", [ValueError("broken"), KeyboardInterrupt(), EffnetError("broken", "fix it")]
)
def test_failed_write_keeps_the_old_file(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    with pytest.raises(type(error)) as caught, atomic_write(path) as part:
        part.write_bytes(NEW)
        raise error
    assert caught.value is error
    assert path.read_bytes() == OLD
    assert files_in(tmp_path) == ["file.bin"]


@pytest.mark.linux
def test_full_disk_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(NEW) // 2, limits[1]))
    try:
        with (
            pytest.raises(EffnetError, match="Cannot write .*: File too large") as caught,
            atomic_write(path) as part,
        ):
            part.write_bytes(NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert repr(str(path)) in caught.value.message
    assert path.read_bytes() == OLD
    assert files_in(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_at_the_end_keeps_the_old_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    with (
        pytest.raises(EffnetError, match="No space left on device"),
        atomic_write(path) as part,
    ):
        part.write_bytes(NEW)
        monkeypatch.setattr(os, call, raise_disk_full)
    assert path.read_bytes() == OLD
    assert files_in(tmp_path) == ["file.bin"]


@pytest.mark.linux
@pytest.mark.parametrize("folder", ["a file/folder", "/proc/no-such-folder"])
def test_uncreatable_folder_is_an_error(folder: str, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    path = tmp_path / folder / "deeper" / "file.bin"
    with pytest.raises(EffnetError, match="Cannot write") as caught, atomic_write(path):
        pytest.fail("there is nothing to write into")
    assert repr(str(path)) in caught.value.message


@pytest.mark.parametrize(
    "name", ["x" * 255, "猫" * 85, "😀" * 63, "-", " ", "new\nline", os.fsdecode(b"\xff\xfe.bin")]
)
def test_any_valid_name_can_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()  # check that the file system accepts it
    with atomic_write(tmp_path / name) as part:
        part.write_bytes(NEW)
    assert (tmp_path / name).read_bytes() == NEW
    assert files_in(tmp_path) == [name]


def test_concurrent_writers_leave_one_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"

    def write(number: int) -> None:
        with atomic_write(path) as part:
            part.write_bytes(bytes([number]) * 100_000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(32)))
    content = path.read_bytes()
    assert content == content[:1] * 100_000
    assert files_in(tmp_path) == ["file.bin"]


@pytest.mark.linux
def test_concurrent_writers_keep_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_umask = os.umask

    def slow_umask(mask: int) -> int:
        before = set_umask(mask)
        time.sleep(0.01)  # so that concurrent changes would overlap
        return before

    def write(number: int) -> None:
        with atomic_write(tmp_path / f"{number}.bin") as part:
            part.write_bytes(NEW)

    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch, ThreadPoolExecutor(8) as pool:
            patch.setattr(os, "umask", slow_umask)
            list(pool.map(write, range(16)))
    finally:
        after = os.umask(before)
    assert after == 0o027
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


@pytest.mark.linux
def test_killed_writer_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    code = f"""
import os, signal
from pathlib import Path
from effnet_cli.system.files import atomic_write
with atomic_write(Path({str(path)!r})) as part:
    part.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == -9
    assert path.read_bytes() == OLD


# --- locks ------------------------------------------------------------------------------------


def test_processes_take_turns(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    code = f"""
import time
from pathlib import Path
from effnet_cli.system.files import process_lock
count = Path({str(count)!r})
for _ in range(10):
    with process_lock(count):
        number = int(count.read_text())
        time.sleep(0.002)
        count.write_text(str(number + 1))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert count.read_text() == "40"


def test_threads_take_turns(tmp_path: Path) -> None:
    inside: list[int] = []

    def enter(number: int) -> None:
        with process_lock(tmp_path / "file"):
            inside.append(number)
            time.sleep(0.01)
            assert inside == [number]
            inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(8)))


def test_lock_held_too_long_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.1)
    path = tmp_path / "file"
    with (
        process_lock(path),
        ThreadPoolExecutor(1) as pool,
        pytest.raises(EffnetError, match="Another process has held") as caught,
    ):
        pool.submit(lambda: process_lock(path).__enter__()).result()
    assert f"{path}" in caught.value.message
    assert "lock" in caught.value.hint


@pytest.mark.linux
def test_lock_of_a_killed_process_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LOCK_SECONDS", 5)
    code = f"""
import os, signal
from pathlib import Path
from effnet_cli.system.files import process_lock
with process_lock(Path({str(tmp_path / "file")!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == -9
    with process_lock(tmp_path / "file"):
        pass


@pytest.mark.linux
@pytest.mark.parametrize("folder", ["a file/folder", "/proc/no-such-folder"])
def test_uncreatable_lock_is_an_error(folder: str, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    path = tmp_path / folder / "deeper" / "file"
    with pytest.raises(EffnetError, match="Cannot write") as caught, process_lock(path):
        pytest.fail("nothing is held")
    assert repr(str(path)) in caught.value.message
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        PermissionError(13, "Permission denied", "another file"),
        FileNotFoundError(2, "No such file or directory", "another file"),
        TimeoutError("no response"),
        ValueError("broken"),
        EffnetError("broken", "fix it"),
    ],
    ids=repr,
)
def test_errors_of_the_block_pass_through_the_lock(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, process_lock(tmp_path / "file"):
        raise error
    assert caught.value is error
    with process_lock(tmp_path / "file"):  # and the lock is free again
        pass


# --- digests ----------------------------------------------------------------------------------


@given(st.binary(max_size=1000))
def test_sha256_is_that_of_the_bytes(content: bytes) -> None:
    path = cache.cache_dir() / "content.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()


def test_digest_is_computed_once(tmp_path: Path, computed: list[Path]) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(OLD)
    assert [cached_sha256(path) for _ in range(3)] == [sha256(path)] * 3
    assert computed == [path]


def lengthen_but_keep_times(path: Path) -> None:
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(OLD + b"!")
    os.utime(path, ns=times)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(OLD + b"!"),
        lengthen_but_keep_times,
        lambda path: rewrite_later(path, NEW),
        lambda path: os.utime(path, ns=(0, path.stat().st_mtime_ns - SECOND_NS)),
        lambda path: os.utime(path, ns=(0, path.stat().st_mtime_ns + 1)),
    ],
    ids=["longer", "longer at the same time", "other content", "older", "a nanosecond newer"],
)
def test_digest_is_computed_again_when_size_or_time_changes(
    change: Callable[[Path], object], tmp_path: Path, computed: list[Path]
) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(OLD)
    cached_sha256(path)
    change(path)
    assert cached_sha256(path) == sha256(path)
    assert cached_sha256(path) == sha256(path)
    assert computed == [path, path]


@pytest.mark.linux
def test_digest_belongs_to_its_path(tmp_path: Path, computed: list[Path]) -> None:
    one, two, link = (tmp_path / name for name in ("one", "two", "link"))
    for path, content in ((one, OLD), (two, NEW)):
        path.write_bytes(content)
        os.utime(path, ns=(SECOND_NS, SECOND_NS))
    link.symlink_to(one)
    assert cached_sha256(one) != cached_sha256(two)
    assert cached_sha256(link) == cached_sha256(one)
    assert computed == [one, two]
    link.unlink()
    link.symlink_to(two)
    assert cached_sha256(link) == cached_sha256(two)


@pytest.mark.parametrize(
    "stamp", [b"", b"{", b"[]", b"null", b"\xff", b'{"sha256": 1}', b'{"sha256": "0"}']
)
def test_damaged_stamp_is_replaced(stamp: bytes, tmp_path: Path, computed: list[Path]) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(OLD)
    cached_sha256(path)
    (file,) = (cache.cache_dir() / "stamps").iterdir()
    file.write_bytes(stamp)
    assert [cached_sha256(path) for _ in range(2)] == [sha256(path)] * 2
    assert computed == [path, path]
    assert json.loads(file.read_bytes())["sha256"] == sha256(path)


@pytest.mark.parametrize(
    "name", ["猫 😀.pth", "new\nline.pth", os.fsdecode(b"\xff.pth"), "x" * 255]
)
def test_digest_of_a_file_of_any_name_is_cached(
    name: str, tmp_path: Path, computed: list[Path]
) -> None:
    path = tmp_path / name
    path.write_bytes(OLD)
    assert [cached_sha256(path) for _ in range(2)] == [sha256(path)] * 2
    assert computed == [path]


@pytest.mark.linux
@pytest.mark.parametrize("folder", ["{tmp}/a file/cache", "/proc/no-such-folder/cache"])
def test_digest_is_correct_without_a_cache(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("EFFNET_CACHE", folder.format(tmp=tmp_path))
    path = tmp_path / "weights.pth"
    for content in (OLD, OLD, NEW):
        path.write_bytes(content)
        assert cached_sha256(path) == hashlib.sha256(content).hexdigest()


def test_digest_is_correct_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", raise_disk_full)
    path = tmp_path / "weights.pth"
    path.write_bytes(OLD)
    assert cached_sha256(path) == sha256(path)
    assert files_in(cache.cache_dir() / "stamps") == []


# --- compiled models of changed content -------------------------------------------------------


def create_compiled_model(digest: str) -> Path:
    path = cache.compiled_dir() / f"lite0-{digest[: cache.DIGEST_CHARS]}-g1-abc.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_compiled_models_of_changed_content_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(OLD)
    old = create_compiled_model(cached_sha256(path))
    another = create_compiled_model("f" * 64)
    rewrite_later(path, NEW)
    new = create_compiled_model(sha256(path))
    cached_sha256(path)
    assert not old.exists()
    assert another.exists()
    assert new.exists()


def test_compiled_models_stay_when_only_the_time_changes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(OLD)
    entry = create_compiled_model(cached_sha256(path))
    rewrite_later(path, OLD)
    cached_sha256(path)
    assert entry.exists()


def test_unreadable_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"x")

    def refuse(_: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(cache, "sha256", refuse)  # chmod would not stop root
    with pytest.raises(EffnetError, match="Cannot read") as caught:
        cached_sha256(path)
    assert str(path) in caught.value.message
