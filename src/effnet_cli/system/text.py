"""Phrases for messages: counts, quoted and shortened names."""

from collections.abc import Sequence

MAX_NAMES = 5  # names quoted in one sentence


def pluralize(count: int, one: str, many: str = "") -> str:
    """Format a count with its noun: `1 image`, `1,200 images`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def quote_names(names: Sequence[str]) -> str:
    """List names in quotes, shortened: `'cat', 'dog' and 3 more`."""
    shown = ", ".join(repr(name) for name in names[:MAX_NAMES])
    more = len(names) - MAX_NAMES
    return f"{shown} and {more:,} more" if more > 0 else shown


def shorten(text: str, max_chars: int) -> str:
    """Shorten `text` by a cut near its start, because the end of a path matters most."""
    start = max_chars // 4
    return text if len(text) <= max_chars else f"{text[:start]}…{text[1 - max_chars + start :]}"
