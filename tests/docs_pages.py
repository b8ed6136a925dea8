"""The pages of the documentation."""

from functools import cache

import hooks
from helpers import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = {
    path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))
}


@cache
def docs_page(name: str) -> str:
    """Return the Markdown of `docs/NAME.md` with its generated parts."""
    return hooks.fill(SOURCES[name])
