"""Which images of an index are meant."""

import os
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.intp]  # [N], numbers of vectors in an index


@dataclass(frozen=True, slots=True)
class Condition:
    """Which images are meant: those below `folder`, modified from `since` to the end of `until`,
    whose most probable class is `label`.
    """

    folder: Path | None = None
    since: date | None = None
    until: date | None = None
    label: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether all images are meant."""
        return self == Condition()

    def to_sql(self) -> tuple[str, list[object]]:
        """Return a condition on the table `images`, and its values."""
        parts, values = ["row IS NOT NULL"], list[object]()
        if self.folder is not None:
            top = os.path.join(os.fsencode(os.path.abspath(self.folder)), b"")
            parts.append("path > ? AND path < ?")
            values += [top, top[:-1] + bytes([top[-1] + 1])]
        if self.since is not None:
            parts.append("mtime_ns >= ?")
            values.append(_to_ns(self.since))
        if self.until is not None:
            parts.append("mtime_ns < ?")
            values.append(_to_ns(self.until + timedelta(days=1)))
        if self.label is not None:
            parts.append("row IN (SELECT row FROM labels WHERE class = ? AND rank = 0)")
            values.append(self.label)
        return " AND ".join(parts), values


def _to_ns(day: date) -> int:
    """Return the local start of a day, in nanoseconds since 1970."""
    return int(datetime.combine(day, time.min).timestamp()) * 10**9
