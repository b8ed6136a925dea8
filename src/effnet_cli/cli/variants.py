"""`effnet variants` and `effnet weights`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from effnet_cli.options import (
    ListOptions,
    ListOutputs,
    ModelOptions,
    Outputs,
    PullOptions,
    ShowOptions,
    VerifyOptions,
)
from effnet_cli.output.out import open_output
from effnet_cli.output.tables import Block, Table
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.fields import Only

if TYPE_CHECKING:
    from effnet_cli.models.variants import Variant


def find_variants(names: Sequence[str]) -> "list[Variant]":
    """Return the variants with these names; `all` stands for every variant."""
    from effnet_cli.models.variants import VARIANTS, find_variant

    return list(VARIANTS.values()) if "all" in names else [find_variant(name) for name in names]


def variants(options: ShowOptions, outputs: Annotated[ListOutputs, Only("format")]) -> int:
    """List the variants, cheapest first, or describe one of them.

    The list shows resolution, size, published accuracy, whether the weights are on this machine,
    and where another variant is better at the same cost. With VARIANT, shows its stages, and how
    compound scaling derives it from the smallest.
    """
    from effnet_cli.models import listing

    if options.name is not None:
        listing.check_alone(options)
        return _describe(options.name, outputs)
    rows = listing.select_variants(options)
    with open_output(outputs) as out:
        table = Table(*listing.variants_table(rows))
        out.show(outputs.format, listing.list_variants(rows), [table])
    return 0


def _describe(name: str, outputs: ListOutputs) -> int:
    from effnet_cli.models import listing, summary_table
    from effnet_cli.models.summary import summarize
    from effnet_cli.models.variants import find_variant

    summary = summarize(name)
    with open_output(outputs) as out:
        stages, lines = summary_table.stages_table(summary), summary_table.scaling_lines(summary)
        blocks: list[Block] = [*summary_table.headline(summary), Table(*stages), *lines]
        published = listing.describe_variant(find_variant(name))
        out.show(outputs.format, {**published, **asdict(summary)}, blocks)
    return 0


def list_weights(options: ListOptions, outputs: Annotated[ListOutputs, Only("format")]) -> int:
    """List weights and where they are or would be stored."""
    from effnet_cli.models import listing

    rows = listing.select_weights(options.names)
    with open_output(outputs) as out:
        table = Table(*listing.weights_table(rows), is_wrapped=True)
        out.show(outputs.format, listing.list_weights(rows), [table])
    return 0


def pull_weights(
    options: PullOptions, model: Annotated[ModelOptions, Only("offline")], outputs: Outputs
) -> int:
    """Download missing weights.

    Those of torchvision go into torch's own folder, timm's into effnet's cache.
    """
    from effnet_cli.models import weights

    with open_output(outputs) as out:
        for row in find_variants(options.names):
            path = weights.fetch_weights(row, offline=model.offline, reporter=out)
            out.note(f"{row.name}: {path}")
    return 0


def verify_weights(options: VerifyOptions) -> int:
    """Compare the SHA-256 hashes of weights with the published ones."""
    from effnet_cli.models import listing

    results = listing.verify_weights(find_variants(options.names))
    if options.names == ("all",):  # then missing weights are not a failure
        results = (one for one in results if one.path)
    is_intact = True
    with open_output(Outputs()) as out:
        for one in results:
            out.table([f"{one.variant}: {one}"])
            if one.fix:
                out.note(f"To fix {one.variant}: {one.fix}")
            is_intact = is_intact and one.status == "intact"
    return 0 if is_intact else 1


def print_weights_paths(options: PullOptions) -> int:
    """Print the paths of installed weights; fails if some are missing."""
    from effnet_cli.models import weights
    from effnet_cli.output.writers import write_stdout

    missing = []
    for row in find_variants(options.names):
        path = weights.find_local_weights(row)
        if path is None:
            missing.append(row)
        else:
            write_stdout(f"{path}\n")
    if missing:
        names = ", ".join(row.name for row in missing)
        raise EffnetError(
            f"The weights of {names} are missing or damaged.", weights.weights_hint(missing)
        )
    return 0
