"""The formats of datasets."""

from collections.abc import Callable
from pathlib import Path

from effnet_cli.datasets.archive_file import is_archive, open_archive_file
from effnet_cli.datasets.folders import open_folder
from effnet_cli.datasets.listing import LayoutError, Source
from effnet_cli.datasets.table_files import open_table_file
from effnet_cli.options import LabelOptions

# For each format: whether it accepts a root, and how to open it. Tables have formats of their own.
FORMATS: tuple[tuple[Callable[[Path], bool], Callable[[Path, LabelOptions], Source]], ...]
FORMATS = (
    (Path.is_dir, open_folder),
    (is_archive, open_archive_file),
    (Path.exists, open_table_file),
)


def open_source(root: Path, options: LabelOptions = LabelOptions()) -> Source:
    """Open the dataset at `root` with the first format that accepts it.

    Raises:
        LayoutError: there is no dataset, or it cannot be read.
    """
    try:
        for accepts, open_format in FORMATS:
            if accepts(root):
                return open_format(root, options)
    except OSError as fault:  # e.g. a name that is too long
        message = f"Cannot read {str(root)!r}: {fault.strerror}."
        raise LayoutError("unreadable", message, "Check the path.") from fault
    raise LayoutError("missing", f"No such file or folder: {str(root)!r}.", "Check the path.")
