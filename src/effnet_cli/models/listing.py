"""List the variants and the weights on this machine, as rows for JSON or 80-column tables."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from effnet_cli.models.variants import VARIANTS, Variant
from effnet_cli.models.weights import expected_path, is_intact, weights_state
from effnet_cli.system.files import is_file, sha256

Cells = tuple[list[str], list[list[object]]]  # column names and rows


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Whether the weights at `path` are the published ones; if not, `fix` is the command to run."""

    variant: str
    status: Literal["intact", "damaged", "missing", "package not installed"]
    path: Path | None = None
    fix: str = ""

    def __str__(self) -> str:
        return self.status if self.path is None else f"{self.status}: {self.path}"


def list_variants() -> list[dict[str, object]]:
    """Return all variants. Accuracies are ImageNet-1k percentages; `size_mb` is for the weights."""
    return [
        {
            "variant": variant.name,
            "resolution_px": variant.preprocessing.crop_px,
            "paper_px": variant.architecture.paper_px,
            "parameters": variant.architecture.parameters,
            "giga_multiply_adds": variant.giga_multiply_adds,
            "top1": variant.top1,
            "top5": variant.top5,
            "size_mb": variant.source.size_mb,
            "weights": weights_state(variant),
        }
        for variant in VARIANTS.values()
    ]


def variants_table() -> Cells:
    """Return the figures of `list_variants`, rounded. MACs are multiply-adds."""
    columns = ["variant", "px", "M params", "G MACs", "top-1 %", "top-5 %", "MB", "weights"]
    return columns, [
        [
            variant.name,
            variant.preprocessing.crop_px,
            f"{variant.architecture.parameters / 1e6:.1f}",
            f"{variant.giga_multiply_adds:.2f}",
            f"{variant.top1:.1f}",
            None if variant.top5 is None else f"{variant.top5:.1f}",
            round(variant.source.size_mb),
            weights_state(variant),
        ]
        for variant in VARIANTS.values()
    ]


def list_weights() -> list[dict[str, object]]:
    """Return a row per variant; `path` is `None` if its weights' package is not installed."""
    return [
        {
            "variant": variant.name,
            "weights": weights_state(variant),
            "size_mb": variant.source.size_mb,
            "path": (path := expected_path(variant)) and str(path),
        }
        for variant in VARIANTS.values()
    ]


def weights_table() -> Cells:
    """Return the rows of `list_weights`, with the paths last because they may be long."""
    return ["variant", "weights", "MB", "path"], [
        [row.name, weights_state(row), f"{row.source.size_mb:.0f}", expected_path(row)]
        for row in VARIANTS.values()
    ]


def verify_weights(variants: Iterable[Variant]) -> Iterator[VerifyResult]:
    """Compare the SHA-256 of the weights, always computed afresh, with the published one."""
    for variant in variants:
        path, fix = expected_path(variant), f"effnet weights pull {variant.name}"
        if variant.source.package is not None:
            fix = variant.source.reinstall
        if path is None:
            yield VerifyResult(variant.name, "package not installed", fix=fix)
        elif not is_file(path):
            yield VerifyResult(variant.name, "missing", fix=fix)
        elif is_intact(variant, path, digest=sha256):
            yield VerifyResult(variant.name, "intact", path)
        else:
            yield VerifyResult(variant.name, "damaged", path, fix=fix)
