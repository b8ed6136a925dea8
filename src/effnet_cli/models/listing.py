"""List the variants and the weights on this machine, as rows for JSON or 80-column tables."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from effnet_cli.models.variants import BEST_OF_TIMM, PUBLISHED, VARIANTS, Variant, find_variant
from effnet_cli.models.weights import expected_path, is_intact, weights_state
from effnet_cli.options import ShowOptions
from effnet_cli.system.errors import UsageError
from effnet_cli.system.files import is_file, sha256

Cells = tuple[list[str], list[list[object]]]  # column names and rows

# A variant is pointed to where it costs no more than this, and has this much more top-1.
SAME_COST = 1.03
MIN_GAIN = 0.5  # %


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Whether the weights at `path` are the published ones; if not, `fix` is the command to run."""

    variant: str
    status: Literal["intact", "damaged", "missing", "package not installed"]
    path: Path | None = None
    fix: str = ""

    def __str__(self) -> str:
        return self.status if self.path is None else f"{self.status}: {self.path}"


def select_variants(options: ShowOptions) -> list[Variant]:
    """Return the variants that `options` select, cheapest first.

    Raises:
        UsageError: there are none.
    """
    best = [*PUBLISHED, *map(find_variant, BEST_OF_TIMM)]
    limit, license_ = options.max_gmacs, options.license
    found = [
        row
        for row in (VARIANTS.values() if options.all else best)
        if (options.trained_on in (None, row.trained_on))
        and (limit is None or row.giga_multiply_adds <= limit)
        and (license_ is None or row.license.lower() == license_.lower())
    ]
    if not found:
        licenses = ", ".join(sorted({row.license for row in VARIANTS.values()}))
        raise UsageError(
            "No variant meets all conditions.", f"Omit one of them; licences are {licenses}."
        )
    return sorted(found, key=lambda row: row.giga_multiply_adds)


def check_alone(options: ShowOptions) -> None:
    """Raise UsageError if `options` name a variant and select from the list as well."""
    excluded = {
        "--all": options.all,
        "--trained-on": options.trained_on,
        "--max-gmacs": options.max_gmacs,
        "--license": options.license,
    }
    for flag in filter(excluded.get, excluded):
        raise UsageError(f"{options.name!r} cannot be combined with {flag}.", "Omit one of them.")


def find_better(row: Variant, others: Iterable[Variant]) -> Variant | None:
    """Return the most accurate of `others` that costs the same, if it is better than `row`."""
    cost = SAME_COST * row.giga_multiply_adds
    same_cost = [other for other in others if other.giga_multiply_adds <= cost]
    best = max(same_cost, key=lambda other: other.top1, default=row)
    return best if best.top1 >= row.top1 + MIN_GAIN else None


def list_variants(rows: Sequence[Variant]) -> list[dict[str, object]]:
    """Return the variants in `rows`. Accuracies are percentages; `size_mb` is for the weights."""
    return [{**describe_variant(row), "better": _name(find_better(row, rows))} for row in rows]


def describe_variant(row: Variant) -> dict[str, object]:
    """Return the published facts about one variant."""
    images, others = row.preprocessing, row.robustness
    return {
        "variant": row.name,
        "architecture": row.architecture.name,
        "weight_set": row.weight_set,
        "resolution_px": images.crop_px,
        "resize_px": images.resize_px,
        "interpolation": images.interpolation,
        "is_squashed": images.is_squashed,
        "mean": images.mean,
        "std": images.std,
        "train_px": row.train_px,
        "paper_px": row.architecture.paper_px,
        "parameters": row.architecture.parameters,
        "giga_multiply_adds": row.giga_multiply_adds,
        "top1": row.top1,
        "top5": row.top5,
        "robustness": None if others is None else others._asdict(),
        "trained_on": row.trained_on,
        "license": row.license,
        "padding": "same" if row.has_same_padding else "symmetric",
        "batch_norm_eps": row.eps,
        "size_mb": row.source.size_mb,
        "repo": row.source.repo,
        "package": row.source.package,
        "file": row.source.file_name,
        "sha256": row.source.sha256 or None,
        "weights": weights_state(row),
    }


def variants_table(rows: Sequence[Variant]) -> Cells:
    """Return the main figures of `rows`, rounded. MACs are multiply-adds."""
    columns = ["variant", "px", "M params", "G MACs", "top-1 %", "MB", "weights", "better"]
    return columns, [
        [
            row.name,
            row.preprocessing.crop_px,
            f"{row.architecture.parameters / 1e6:.1f}",
            f"{row.giga_multiply_adds:.2f}",
            f"{row.top1:.1f}",
            round(row.source.size_mb),
            "here" if weights_state(row) == "available" else None,
            _hint(row, find_better(row, rows)),
        ]
        for row in rows
    ]


def _name(row: Variant | None) -> str | None:
    return None if row is None else row.name


def _hint(row: Variant, better: Variant | None) -> str | None:
    """Return e.g. `b3.ns +2.1`."""
    if better is None:
        return None
    return f"{better.name} +{round(better.top1, 1) - round(row.top1, 1):.1f}"


def select_weights(names: Sequence[str]) -> list[Variant]:
    """Return the variants with these names, and all variants of architectures with these names.

    Without names, return those listed first and those whose weights are on this machine.
    """
    if not names:
        listed = select_variants(ShowOptions())
        rest = [row for row in VARIANTS.values() if row not in listed]
        return listed + [row for row in rest if weights_state(row) == "available"]
    found: dict[str, Variant] = {}
    for name in names:
        row = find_variant(name)
        is_architecture = row.name == row.architecture.name or name == row.architecture.name
        sets = VARIANTS.values() if is_architecture else [row]
        found |= {one.name: one for one in sets if one.architecture is row.architecture}
    return list(found.values())


def list_weights(rows: Iterable[Variant]) -> list[dict[str, object]]:
    """Return a row per variant; `path` is `None` if its weights' package is not installed."""
    return [
        {
            "variant": row.name,
            "weights": weights_state(row),
            "top1": row.top1,
            "size_mb": row.source.size_mb,
            "path": (path := expected_path(row)) and str(path),
        }
        for row in rows
    ]


def weights_table(rows: Iterable[Variant]) -> Cells:
    """Return the rows of `list_weights`, with the paths last because they may be long."""
    return ["variant", "weights", "top-1 %", "MB", "path"], [
        [
            row.name,
            weights_state(row),
            f"{row.top1:.1f}",
            f"{row.source.size_mb:.0f}",
            expected_path(row),
        ]
        for row in rows
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
