"""The commands of `effnet`, in the order of its help."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer

from effnet_cli import __version__
from effnet_cli.cli import search, variants
from effnet_cli.cli.audit import audit
from effnet_cli.cli.bench import bench
from effnet_cli.cli.doctor import doctor
from effnet_cli.cli.embed import embed
from effnet_cli.cli.evaluate import evaluate
from effnet_cli.cli.export import TARGETS_HELP, export
from effnet_cli.cli.finetune import finetune
from effnet_cli.cli.options import CommandGroup, add_command
from effnet_cli.cli.predict import predict


def _print_version(is_given: bool) -> None:
    if is_given:
        print(f"effnet {__version__}")  # noqa: T201
        raise typer.Exit


VERSION = typer.Option(
    "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
)


def effnet(version: Annotated[bool, VERSION] = False) -> None:
    """Classify images with EfficientNet.

    Try `effnet predict cat.jpg`: the default model is included, so nothing is downloaded.
    """


Command = Callable[..., int | None]

COMMANDS: Sequence[Command] = (
    predict,
    audit,
    finetune,
    evaluate,
    embed,
    export,
    bench,
    variants.variants,
    doctor,
)
EPILOGS: Mapping[Command, str] = {export: TARGETS_HELP}
SEARCH_COMMANDS: Mapping[str, Command] = {
    "index": search.index_images,
    "query": search.query,
    "verify": search.verify,
    "calibrate": search.calibrate,
    "cluster": search.cluster,
    "map": search.draw_map,
    "compact": search.compact,
    "list": search.list_indexes,
}
WEIGHTS_COMMANDS: Mapping[str, Command] = {
    "list": variants.list_weights,
    "pull": variants.pull_weights,
    "verify": variants.verify_weights,
    "path": variants.print_weights_paths,
}


GROUPS: Mapping[str, tuple[str, Mapping[str, Command]]] = {
    "search": ("Index images, and find those like others.", SEARCH_COMMANDS),
    "weights": ("List, download, verify and locate pretrained weights.", WEIGHTS_COMMANDS),
}


def build_app(words: Sequence[str] = ()) -> typer.Typer:
    """Build the app with the command that `words` start with, or else with all: each command delays
    the start by a millisecond.
    """
    # Plain help with sections: rich's panels would double the time to the first line.
    app = typer.Typer(
        name="effnet",
        cls=CommandGroup,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(effnet)
    chosen = [command for command in COMMANDS if command.__name__ in words[:1]]
    for command in chosen or COMMANDS:
        add_command(app, command, epilog=EPILOGS.get(command, ""))
    if not chosen:
        for name, (text, commands) in GROUPS.items():
            app.add_typer(_build_group(text, commands), name=name)
    return app


def _build_group(text: str, commands: Mapping[str, Command]) -> typer.Typer:
    app = typer.Typer(cls=CommandGroup, rich_markup_mode=None, help=text)
    for name, command in commands.items():
        add_command(app, command, name=name)
    return app
