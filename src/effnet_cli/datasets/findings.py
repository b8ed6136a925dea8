"""Findings about a dataset: errors, warnings and notes."""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

FINDING_EXAMPLES = 5  # paths in one finding


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of problem or fact. A dataset with an error cannot be trained on.

    `kind` is a stable identifier. `message` is one sentence with the offending values, `hint` an
    instruction (empty for most notes). `paths` has the first five of `count` items; for pairs, the
    two paths follow each other. `reasons` says what is wrong with each path, if that differs.
    """

    level: Literal["error", "warning", "note"]
    kind: str
    message: str
    hint: str = ""
    count: int = 1
    paths: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


error = partial(Finding, "error")
warning = partial(Finding, "warning")
note = partial(Finding, "note")


@dataclass(slots=True)
class ExampleCounter:
    """A count of items, and the first few."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, item: str) -> None:
        self.count += 1
        self.examples = [*self.examples, item][:FINDING_EXAMPLES]

    def merge(self, other: "ExampleCounter") -> None:
        self.count += other.count
        self.examples = (self.examples + other.examples)[:FINDING_EXAMPLES]


class Counters(defaultdict[str, ExampleCounter]):
    """Counters by kind of finding."""

    def __init__(self) -> None:
        super().__init__(ExampleCounter)
