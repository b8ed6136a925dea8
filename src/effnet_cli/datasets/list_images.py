"""List the images of a table or an archive, whatever their labels."""

from collections.abc import Iterator
from pathlib import Path

from effnet_cli.datasets.archive_file import list_archive
from effnet_cli.datasets.columns import choose_image_column
from effnet_cli.datasets.image_paths import PathResolver
from effnet_cli.datasets.listing import LayoutError
from effnet_cli.datasets.other_formats import ARCHIVE_SUFFIXES
from effnet_cli.datasets.paths import decode_path
from effnet_cli.datasets.table_files import is_table, open_label_table
from effnet_cli.images.finder import ImageInput
from effnet_cli.options import LabelOptions
from effnet_cli.system.errors import ImageError


def list_images(path: str, options: LabelOptions = LabelOptions()) -> Iterator[ImageInput] | None:
    """Return the images that a table or an archive holds or names; `None` if it is neither.

    A table that cannot be read is one input with an error.
    """
    file = Path(path)
    if not file.is_file():
        return None
    if file.suffix.lower() in ARCHIVE_SUFFIXES:
        return _report_errors(path, map(str, map(file.joinpath, list_archive(file))))
    if is_table(file):
        return _report_errors(path, _list_table(file, options))
    return None


def _report_errors(path: str, paths: Iterator[str]) -> Iterator[ImageInput]:
    is_empty = True
    try:
        for one in paths:
            is_empty = False
            yield ImageInput(one, one)
    except LayoutError as fault:
        finding = fault.finding
        yield ImageInput(path, None, ImageError("not_an_image", finding.message, finding.hint))
    else:
        if is_empty:
            message = "This file lists no images."
            error = ImageError("not_an_image", message, "Pass an image file, or a folder.")
            yield ImageInput(path, None, error)


def _list_table(file: Path, options: LabelOptions) -> Iterator[str]:
    table = open_label_table(file)
    resolver = PathResolver(table.folder)
    column = choose_image_column(table, table.sample(), options, resolver=resolver)

    def read() -> Iterator[str]:
        for _, cells in table.read():
            yield str(cells[column]) if column < len(cells) else ""

    resolver.learn(filter(None, read()))
    for text in filter(None, read()):
        yield resolver.resolve(decode_path(text)) or str(table.folder / text)
