"""Limits of containers, read from files as Linux writes them."""

from pathlib import Path

import pytest

from effnet_cli.system import cgroup, parallel
from effnet_cli.system.machine import available_memory_bytes

MB = 2**20


def write(folder: Path, **files: object) -> None:
    """Write files; `__` in a name stands for a point."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroup, "MOUNT", tmp_path / "mount")
    monkeypatch.setattr(cgroup, "MEMBERSHIP", tmp_path / "membership")
    parallel._cpu_limit.cache_clear()
    return tmp_path / "mount"


def join(mount: Path, *lines: str) -> None:
    (mount.parent / "membership").write_text("".join(f"{line}\n" for line in lines))


def test_the_tightest_limit_of_all_groups_counts(mount: Path) -> None:
    join(mount, "0::/pod/app")
    write(mount / "pod", memory__max=900 * MB, memory__current=100 * MB, cpu__max="150000 100000")
    (mount / "pod" / "memory.stat").write_text("anon 1\ninactive_file 0\n")
    write(mount / "pod" / "app", memory__max="max", memory__current=1, cpu__max="max 100000")
    assert cgroup.memory_left_bytes() == 800 * MB
    assert cgroup.cpu_limit() == 1.5
    assert available_memory_bytes() <= 800 * MB
    assert parallel.usable_cores() <= 2


def test_files_in_memory_can_be_freed(mount: Path) -> None:
    join(mount, "0::/")
    write(mount, memory__max=500 * MB, memory__current=400 * MB)
    (mount / "memory.stat").write_text(f"active_file 7\ninactive_file {250 * MB}\n")
    assert cgroup.memory_left_bytes() == 350 * MB


def test_version_1_inside_a_container(mount: Path) -> None:
    """The path is that of the host, but the container sees only its own group, at the top."""
    join(mount, "11:memory:/docker/abc", "4:cpu,cpuacct:/docker/abc", "1:name=systemd:/x")
    limit = {"memory__limit_in_bytes": 600 * MB, "memory__usage_in_bytes": 500 * MB}
    write(mount / "memory", **limit, memory__stat=f"total_inactive_file {50 * MB}")
    write(mount / "cpu", cpu__cfs_quota_us=50_000, cpu__cfs_period_us=100_000)
    assert cgroup.memory_left_bytes() == 150 * MB
    assert cgroup.cpu_limit() == 0.5
    assert parallel.usable_cores() == 1


@pytest.mark.parametrize("lines", [(), ("0::/gone",), ("11:memory:/", "4:cpu,cpuacct:/")], ids=str)
def test_without_limits_the_machine_counts(lines: tuple[str, ...], mount: Path) -> None:
    if lines:
        join(mount, *lines)
    write(mount / "cpu", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100_000)
    assert cgroup.memory_left_bytes() is None
    assert cgroup.cpu_limit() is None
    assert parallel.usable_cores() >= 1


def test_unreadable_numbers_are_no_limit(mount: Path) -> None:
    join(mount, "0::/")
    write(mount, memory__max="max", cpu__max="")
    assert cgroup.memory_left_bytes() is None
    assert cgroup.cpu_limit() is None
