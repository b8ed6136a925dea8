"""Text that is safe to print for any name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.output.text import printable

# Any file name, including invalid UTF-8.
NAMES = st.binary(max_size=30).map(lambda b: b.decode("utf-8", "surrogateescape")) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=30
)


@given(NAMES)
def test_printable_text_has_no_control_characters(name: str) -> None:
    shown = printable(name)
    assert all(c.isprintable() or c == "\u200d" for c in shown)
    shown.encode("utf-8")  # valid text for any name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat.jpg", "cat.jpg"),
        ("a\nb\x1b[31m", "a\\x0ab\\x1b[31m"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        (b"\xff.jpg".decode("utf-8", "surrogateescape"), "\\xff.jpg"),
        ("👩\u200d🔬 é [red]", "👩\u200d🔬 é [red]"),
    ],
)
def test_names_are_shown_as_they_are_or_as_escapes(name: str, shown: str) -> None:
    assert printable(name) == shown
