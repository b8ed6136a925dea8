"""How long-running work reports to whoever started it."""

from typing import Literal, Protocol

ProgressUnit = Literal["images", "bytes", "steps"]


class Reporter(Protocol):
    """Receives notes and progress from long-running work."""

    def note(self, text: str) -> None:
        """Show one line about what is being done."""

    def progress(
        self, what: str, done: int, total: int | None, unit: ProgressUnit = "images"
    ) -> None:
        """Show that `done` of `total` units of `what` are done; equal numbers end the bar."""


class _Silent:
    def note(self, text: str) -> None:
        """Discard."""

    def progress(
        self, what: str, done: int, total: int | None, unit: ProgressUnit = "images"
    ) -> None:
        """Discard."""


SILENT: Reporter = _Silent()
