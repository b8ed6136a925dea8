"""The command `effnet`, which the other files here fill."""

from typing import Annotated

import typer

from effnet_cli import __version__

# Plain help: rich's panels would double the time to the first line.
app = typer.Typer(
    name="effnet",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
weights_app = typer.Typer(
    rich_markup_mode=None, help="List, fetch, check and locate pretrained weights."
)
app.add_typer(weights_app, name="weights")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"effnet {__version__}")  # noqa: T201
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option(
        "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
]


@app.callback()
def effnet(version: VersionOption = False) -> None:
    """Image classification with EfficientNet: what is on these images?

    Try `effnet predict cat.jpg`: the default variant answers without any download.
    """
