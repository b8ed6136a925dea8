"""The commands of `effnet`, in the order of its help."""

from typing import Annotated

import typer

from effnet_cli import __version__
from effnet_cli.cli import variants
from effnet_cli.cli.bench import bench
from effnet_cli.cli.doctor import doctor
from effnet_cli.cli.evaluate import evaluate
from effnet_cli.cli.export import TARGETS_HELP, export
from effnet_cli.cli.finetune import finetune
from effnet_cli.cli.options import add_command
from effnet_cli.cli.predict import predict

# Plain help with sections: rich's panels would double the time to the first line.
app = typer.Typer(
    name="effnet",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
add_command(app, predict)
add_command(app, finetune)
add_command(app, evaluate)
add_command(app, export, epilog=TARGETS_HELP)
add_command(app, bench)
add_command(app, variants.variants)
add_command(app, doctor)

weights_app = typer.Typer(
    rich_markup_mode=None, help="List, download, verify and locate pretrained weights."
)
app.add_typer(weights_app, name="weights")
add_command(weights_app, variants.list_weights, name="list")
add_command(weights_app, variants.pull_weights, name="pull")
add_command(weights_app, variants.verify_weights, name="verify")
add_command(weights_app, variants.print_weights_paths, name="path")


def _print_version(is_given: bool) -> None:
    if is_given:
        print(f"effnet {__version__}")  # noqa: T201
        raise typer.Exit


VERSION = typer.Option(
    "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
)


@app.callback()
def effnet(version: Annotated[bool, VERSION] = False) -> None:
    """Classify images with EfficientNet.

    Try `effnet predict cat.jpg`: the default model is included, nothing is downloaded.
    """
