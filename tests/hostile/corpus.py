"""A reproducible corpus of odd and hostile inputs, created in seconds.

`corpus.py FOLDER` writes it, with `expected.json`: the expected result of each input.
"""

import argparse
import json
import os
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import bad
import good
from bad import Bad
from good import Good


@dataclass(frozen=True, slots=True)
class Input:
    """One name and its contents."""

    name: bytes
    case: Good | Bad

    @property
    def is_good(self) -> bool:
        return isinstance(self.case, Good)


@cache
def inputs() -> tuple[Input, ...]:
    """Return all inputs, ordered so that each good image is next to a bad one."""
    all_inputs = [Input(good.name_of(case), case) for case in good.good_images()]
    all_inputs += [Input(bad.name_of(case), case) for case in bad.bad_inputs()]
    assert len({one.name for one in all_inputs}) == len(all_inputs)
    random.Random(0).shuffle(all_inputs)
    return tuple(all_inputs)


def write(folder: Path) -> Path:
    """Create all inputs in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in inputs():
        path = folder / os.fsdecode(one.name)
        content = one.case.data if isinstance(one.case, Good) else one.case.made
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
    return folder


def expected(one: Input) -> dict[str, object]:
    """Return the expected result of an input, as JSON."""
    name = os.fsdecode(one.name)
    if isinstance(one.case, Good):
        return {"path": name, "group": one.case.group, "status": "ok", "levels": one.case.levels}
    return {
        "path": name,
        "group": one.case.group,
        "status": "error",
        "kinds": one.case.kinds,
        "words": one.case.words,
    }


def main() -> None:
    """Write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    write(folder / "inputs")
    table = [expected(one) for one in inputs()]
    (folder / "expected.json").write_text(json.dumps(table, indent=1))
    are_good = sum(one.is_good for one in inputs())
    print(f"{len(table)} inputs, {are_good} of them good, in {folder}")


if __name__ == "__main__":
    main()
