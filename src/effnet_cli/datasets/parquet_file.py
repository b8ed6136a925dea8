"""Tables in Parquet files, whose images are files beside them or bytes in a column."""

import json
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from effnet_cli.datasets.columns import Cell
from effnet_cli.datasets.listing import LayoutError
from effnet_cli.datasets.table import LabelTable
from effnet_cli.images.archives import INSTALL_PARQUET

PARQUET_SUFFIXES = (".parquet",)


def open_parquet(file: Path) -> LabelTable:
    """Open a Parquet file. A column of images (bytes, or those of Hugging Face datasets) is read as
    the paths of its rows, e.g. `data.parquet/image/17`.

    Raises:
        LayoutError: it cannot be read, or pyarrow is not installed.
    """
    try:
        library: Any = import_module("pyarrow.parquet")
    except ImportError as fault:
        message = f"{str(file)!r} is a Parquet file, which needs the package pyarrow."
        raise LayoutError("not_read", message, INSTALL_PARQUET) from fault
    try:
        schema = library.read_schema(file)
    except (OSError, ValueError) as fault:
        message = f"{str(file)!r} is not a valid Parquet file."
        raise LayoutError("bad_parquet", message, "Download or copy it again.") from fault
    images = [field.name for field in schema if _holds_images(field.type)]
    plain = [field.name for field in schema if field.name not in images]
    names = {column: _class_names(schema, column) for column in plain}

    def read() -> Iterator[tuple[int, Sequence[Cell]]]:
        number = 0
        for batch in library.ParquetFile(file).iter_batches(columns=plain):
            for values in zip(*(batch.column(column).to_pylist() for column in plain), strict=True):
                cells = [_to_cell(v, names[c]) for c, v in zip(plain, values, strict=True)]
                yield number + 1, [*(f"{file.name}/{column}/{number}" for column in images), *cells]
                number += 1

    return LabelTable(file, "a Parquet file", [*images, *plain], read=read, unit="row")


def _holds_images(type_: Any) -> bool:
    types: Any = import_module("pyarrow.types")
    if types.is_struct(type_):
        return any(type_.field(i).name == "bytes" for i in range(type_.num_fields))
    return bool(types.is_binary(type_) or types.is_large_binary(type_))


def _class_names(schema: Any, column: str) -> Sequence[str]:
    """Return the names of a column's classes that Hugging Face datasets keep beside the schema."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][column]["names"]
    except (LookupError, TypeError, ValueError):
        return ()
    return [str(name) for name in names] if isinstance(names, list) else ()


def _to_cell(value: Any, names: Sequence[str]) -> Cell:
    if isinstance(value, list):
        texts = tuple(str(_to_cell(one, names)) for one in value)
        return texts[0] if len(texts) == 1 else texts
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    is_class_missing = bool(names) and value == -1
    return "" if value is None or is_class_missing else str(value)
