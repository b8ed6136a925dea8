"""`effnet variants` and `effnet weights`."""

from dataclasses import asdict
from typing import Annotated

import typer

from effnet_cli.cli.app import app, weights_app
from effnet_cli.cli.options import (
    ListFormat,
    ListFormatOption,
    NamesArgument,
    OfflineOption,
    QuietOption,
)
from effnet_cli.cli.out import named, new_reporter, print_listing, show_blocks, show_json
from effnet_cli.system.errors import EffnetError

VariantArgument = Annotated[
    str | None, typer.Argument(metavar="VARIANT", help="One to explain.", show_default=False)
]
VerifiedNamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="VARIANTS", help="Names, or all that are here.", show_default="all"),
]


@app.command()
def variants(name: VariantArgument = None, format_: ListFormatOption = "table") -> None:
    """List the networks, or explain one of them.

    The list has resolution, size, published accuracy and whether the weights are here; VARIANT
    shows the stages of one, and how scaling makes it from the smallest.
    """
    if name is not None:
        _explain(name, format_)
        return
    from effnet_cli.models import listing

    print_listing(listing.list_variants(), listing.variants_table(), format_)


@weights_app.command("list")
def list_weights(format_: ListFormatOption = "table") -> None:
    """List where the weights of each network are, or would be."""
    from effnet_cli.models import listing

    print_listing(listing.list_weights(), listing.weights_table(), format_)


@weights_app.command("pull")
def pull_weights(
    names: NamesArgument, offline: OfflineOption = False, quiet: QuietOption = False
) -> None:
    """Fetch weights that are not here, into the folder in which torch keeps them."""
    from effnet_cli.models import weights

    reporter = new_reporter(quiet)
    for row in named(names):
        path = weights.fetch_weights(row, offline=offline, reporter=reporter)
        reporter.note(f"{row.name}: {path}")


@weights_app.command("verify")
def verify_weights(names: VerifiedNamesArgument = None) -> None:
    """Compute the digests of weights anew and compare them with the published ones."""
    from effnet_cli.models import listing
    from effnet_cli.output.writers import write_stdout

    names, reporter = names or ["all"], new_reporter(quiet=False)
    is_all = names == ["all"]  # then missing weights are no failure
    results = [r for r in listing.verify_weights(named(names)) if r.path or not is_all]
    for result in results:
        write_stdout(f"{result.variant}: {result}\n")
        if result.fix:
            reporter.note(f"To fix {result.variant}: {result.fix}")
    raise typer.Exit(0 if all(result.status == "intact" for result in results) else 1)


@weights_app.command("path")
def path_of_weights(names: NamesArgument) -> None:
    """Print the paths of weights that are here; fails for those that are not."""
    from effnet_cli.models import weights
    from effnet_cli.output.writers import write_stdout

    missing = []
    for row in named(names):
        path = weights.find_local_weights(row)
        if path is None:
            missing.append(row)
        else:
            write_stdout(f"{path}\n")
    if missing:
        words = ", ".join(row.name for row in missing)
        raise EffnetError(
            f"The weights of {words} are missing or damaged.", weights.weights_hint(missing)
        )


def _explain(name: str, format_: ListFormat) -> None:
    """Write what a variant consists of."""
    from effnet_cli.models.summary import summarize

    summary = summarize(name)
    if format_ == "json":
        show_json(asdict(summary))
        return
    from effnet_cli.models import summary_table
    from effnet_cli.output.tables import Table

    stages = Table(*summary_table.stages_table(summary))
    headline, scaling = summary_table.headline(summary), summary_table.scaling_lines(summary)
    show_blocks([*headline, stages, *scaling])
