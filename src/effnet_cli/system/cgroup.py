"""The memory and processor time that a container may use: Linux control groups, versions 1 and 2.

Libraries see the whole machine, whatever its containers are allowed.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOUNT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# File names per version: limit, use, and statistics with a part of the use that can be freed.
MEMORY_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def memory_left_bytes() -> int | None:
    """Return how much more memory this process may use; `None` without a limit."""
    left = []
    for version, folder in _folders("memory"):
        limit_name, use_name, freeable_name = MEMORY_FILES[version]
        with suppress(OSError, ValueError):  # no such file, or the limit is "max"
            limit, use = int(_read(folder / limit_name)), int(_read(folder / use_name))
            freeable = re.search(rf"^{freeable_name} (\d+)$", _read(folder / "memory.stat"), re.M)
            left.append(max(0, limit - use + (int(freeable[1]) if freeable else 0)))
    return min(left, default=None)


def cpu_limit() -> float | None:
    """Return how many processors' time this process may use; `None` without a limit."""
    limits = []
    for version, folder in _folders("cpu"):
        with suppress(OSError, ValueError):  # no such file, or the quota is "max"
            if version == 2:
                quota, period = map(int, _read(folder / "cpu.max").split())
            else:
                quota = int(_read(folder / "cpu.cfs_quota_us"))
                period = int(_read(folder / "cpu.cfs_period_us"))
            if quota > 0:
                limits.append(quota / period)
    return min(limits, default=None)


def _folders(controller: str) -> Iterator[tuple[int, Path]]:
    """Yield the version and the folder of this process's group and of all groups around it.

    Inside a container, its own group may be mounted at the top, under a path of the host.
    """
    try:
        lines = _read(MEMBERSHIP).splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", maxsplit=2)
        if controllers and controller not in controllers.split(","):
            continue
        version, top = (1, MOUNT / controller) if controllers else (2, MOUNT)
        group = top / path.lstrip("/")
        yield from ((version, one) for one in (group, *group.parents) if one.is_relative_to(top))


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii", errors="replace").strip()
