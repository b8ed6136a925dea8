"""Where indexes are: by name in the user's data folder, or at a path."""

import os
from pathlib import Path

from platformdirs import user_data_dir

from effnet_cli.search.store import exists
from effnet_cli.system.errors import UsageError

FOLDER_VARIABLE = "EFFNET_INDEXES"


def index_folder(name: str) -> Path:
    """Return the folder of an index: `name` itself if it is a path or an index is there, else a
    folder of that name in `EFFNET_INDEXES`, by default in the user's data folder.
    """
    path = Path(name).expanduser()
    if path.name != name or exists(path):
        return path
    return indexes_folder() / name


def indexes_folder() -> Path:
    """Return the folder of the indexes that have only names."""
    given = os.environ.get(FOLDER_VARIABLE)
    try:
        return Path(given) if given else Path(user_data_dir("effnet", appauthor=False), "indexes")
    except RuntimeError as error:  # a user without a home
        message = "There is no folder for indexes: the user has no home."
        raise UsageError(
            message, f"Use a path, such as ./NAME, or set {FOLDER_VARIABLE}."
        ) from error
