"""How long-running work reports to its caller."""

from typing import Literal, Protocol

ProgressUnit = Literal["images", "bytes", "steps"]


class Reporter(Protocol):
    """Receives notes and progress from long-running work."""

    def note(self, text: str) -> None:
        """Show one line about the work."""

    def progress(
        self, what: str, done: int, total: int | None, unit: ProgressUnit = "images"
    ) -> None:
        """Show that `done` of `total` units of `what` are done; the bar ends when all are."""


class _Silent:
    """Discards everything."""

    def note(self, text: str) -> None: ...

    def progress(self, *args: object, **kwargs: object) -> None: ...


SILENT: Reporter = _Silent()
