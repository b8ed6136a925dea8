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
                _check_options(root, options)
                return open_format(root, options)
    except OSError as fault:  # e.g. a name that is too long
        message = f"Cannot read {str(root)!r}: {fault.strerror}."
        raise LayoutError("unreadable", message, "Check the path.") from fault
    raise LayoutError("missing", f"No such file or folder: {str(root)!r}.", "Check the path.")


def _check_options(root: Path, options: LabelOptions) -> None:
    """Refuse options that exclude each other, or that this kind of dataset has no use for."""
    columns = {
        "--image-column": options.image_column,
        "--label-column": options.label_column,
        "--split-column": options.split_column,
        "--group-column": options.group_column,
    }
    named = [flag for flag, value in columns.items() if value is not None]
    name, pattern = str(root), options.label_pattern
    if options.group_column is not None and options.group_pattern is not None:
        message = "--group-column cannot be combined with --group-pattern."
        raise LayoutError("bad_options", message, "Omit one of them.")
    if named and (pattern is not None or is_archive(root)):
        what = "--label-pattern" if pattern is not None else f"the archive {name!r}"
        message = f"{named[0]} cannot be combined with {what}, which has no columns."
        raise LayoutError("bad_options", message, f"Omit {named[0]}.")
    if options.label_separator is not None and not options.multi_label:
        message = "--label-separator requires --multi-label."
        raise LayoutError("bad_options", message, "Add --multi-label.")
    if options.multi_label and (pattern is not None or is_archive(root)):
        message = "--multi-label requires a table of the labels (CSV, JSON or Parquet)."
        raise LayoutError("bad_options", message, "Pass the table.")
    if pattern is not None and not root.is_dir() and not is_archive(root):
        message = f"--label-pattern requires a folder or an archive, but {name!r} is a table."
        raise LayoutError("bad_options", message, "Pass the folder of the images.")
