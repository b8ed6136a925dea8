"""The command line: options and commands, a file for each; `main` is the one edge where errors
become text.
"""

# each of these adds its commands to the application, in the order of the help
# isort: off
from effnet_cli.cli import predict, finetune, evaluate, export, bench, variants, doctor  # noqa: F401
from effnet_cli.cli.main import main, run
# isort: on

__all__ = ["main", "run"]
