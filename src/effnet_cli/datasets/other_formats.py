"""Datasets that are recognised but not read, with what to do instead."""

import re
from collections.abc import Callable
from pathlib import Path

from effnet_cli.datasets.listing import LayoutError
from effnet_cli.datasets.split import parse_split
from effnet_cli.images.finder import is_image_name

SAVE_IMAGES = "Save each image as a PNG file in a folder of its class, e.g. {0}/cat/1.png."
SAVE_TABLE = "Save the sheet as a CSV file with the columns path and label."
LIST_CLASSES = (
    "Crop the objects into a folder per class, or list the images in a CSV file with the columns "
    "path and label."
)
# Files that hold images or labels themselves: what they are, and what to do.
UNREAD_SUFFIXES: dict[str, tuple[str, str]] = {
    ".xlsx": ("an Excel workbook", SAVE_TABLE),
    ".xls": ("an Excel workbook", SAVE_TABLE),
    ".ods": ("a spreadsheet", SAVE_TABLE),
    ".npz": ("a file of NumPy arrays", SAVE_IMAGES),
    ".npy": ("a NumPy array", SAVE_IMAGES),
    ".pkl": ("a Python pickle, which could run code when it is opened", SAVE_IMAGES),
    ".pickle": ("a Python pickle, which could run code when it is opened", SAVE_IMAGES),
    ".tfrecord": ("a TFRecord file", SAVE_IMAGES),
    ".tfrecords": ("a TFRecord file", SAVE_IMAGES),
    ".mat": ("a MATLAB file", SAVE_IMAGES),
    ".h5": ("an HDF5 file", SAVE_IMAGES),
    ".hdf5": ("an HDF5 file", SAVE_IMAGES),
    ".arrow": (
        "an Arrow file",
        "Save it as Parquet, e.g. with dataset.to_parquet('data.parquet').",
    ),
    ".xml": ("an XML file", LIST_CLASSES),
    ".yaml": ("a YAML file", "Pass the folder of the images."),
    ".yml": ("a YAML file", "Pass the folder of the images."),
}
ARCHIVE_SUFFIXES = (".zip", ".tar")
PACKED_SUFFIXES = (".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst")
BOX = re.compile(r"\d+( [\d.e-]+){4,}\s*$")  # a class, and a box or an outline
# Files without a suffix: the beginning or end of their names.
BATCHES = ("data_batch_", "test_batch")  # CIFAR's pickles
IDX_ENDS = ("-ubyte", "-ubyte.gz")  # MNIST's arrays


def check_file(file: Path) -> None:
    """Refuse a file in a format that is not read.

    Raises:
        LayoutError: it is one.
    """
    found = _describe_file(file)
    if found is not None:
        what, hint = found
        folder = str(file.parent / "images")
        raise LayoutError("not_read", f"{str(file)!r} is {what}.", hint.format(folder))


def _describe_file(file: Path) -> tuple[str, str] | None:
    name = file.name.lower()
    if name.startswith(BATCHES):
        return UNREAD_SUFFIXES[".pkl"]
    if name.endswith(IDX_ENDS):
        return "a file of arrays (IDX)", SAVE_IMAGES
    if ".tfrecord-" in name:
        return UNREAD_SUFFIXES[".tfrecord"]
    return UNREAD_SUFFIXES.get(file.suffix.lower())


def check_folder(root: Path) -> None:
    """Refuse a folder in a format that is not read.

    Raises:
        LayoutError: it is one.
    """
    for what, is_format in FOLDER_FORMATS:
        if is_format(root):
            message = f"{str(root)!r} is {what}: its labels are boxes, not classes of images."
            raise LayoutError("boxes", message, LIST_CLASSES)


def is_other_format(path: Path) -> bool:
    """Return whether a file is named like one that holds images or labels but is not read."""
    return _describe_file(path) is not None


def is_archive_name(path: Path) -> bool:
    """Return whether a file is named like an archive, be it one that is read or not."""
    return path.suffix.lower() in (*ARCHIVE_SUFFIXES, *PACKED_SUFFIXES)


def _is_yolo(root: Path) -> bool:
    """Return whether text files of boxes lie in `labels` folders, beside `images`."""
    tops = [root, *(path for path in root.iterdir() if path.is_dir())]
    return any(_has_boxes(top / "labels") and (top / "images").is_dir() for top in tops)


def _has_boxes(folder: Path) -> bool:
    """Return whether the first text file in a folder, or one in it, has lines of a YOLO label."""
    files = (one for pattern in ("*.txt", "*/*.txt") for one in folder.glob(pattern))
    first = next(files, None) if folder.is_dir() else None
    if first is None:
        return False
    with first.open(encoding="utf-8", errors="replace") as lines:
        return BOX.match(lines.readline()) is not None


def _is_voc(root: Path) -> bool:
    tops = [root, *(path for path in root.iterdir() if path.is_dir())]
    return any(_has_file(top / "Annotations", ".xml") for top in tops) or _has_pairs(root, ".xml")


def _has_file(folder: Path, suffix: str) -> bool:
    """Return whether a folder, or one in it, holds a file with this suffix."""
    return folder.is_dir() and any(
        next(folder.glob(pattern), None) for pattern in (f"*{suffix}", f"*/*{suffix}")
    )


def _has_pairs(root: Path, suffix: str) -> bool:
    """Return whether each of the images in a folder or its splits has a file beside it."""
    splits = (path for path in root.iterdir() if parse_split(path.name) is not None)
    for folder in (root, *splits):
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        images = [name for name in names if is_image_name(name)]
        if images and all(Path(name).stem + suffix in names for name in images):
            return True
    return False


FOLDER_FORMATS: tuple[tuple[str, Callable[[Path], bool]], ...] = (
    ("a YOLO dataset", _is_yolo),
    ("a Pascal VOC dataset", _is_voc),
)
