"""Write vectors to files: Parquet, NumPy with JSON lines, or JSON lines."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from effnet_cli.embed.formats import to_row
from effnet_cli.embed.projection import Projection
from effnet_cli.embed.records import EmbeddedImage, Vectors, VectorSource
from effnet_cli.options import VectorType
from effnet_cli.output.text import json_lines
from effnet_cli.output.writers import write
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import atomic_write

IMAGES_PER_CHUNK = 1024  # images that are converted and written at once
INT8_LIMIT = 127


class StoredChunk(NamedTuple):
    """Some images, and their vectors as they are stored.

    `values` [N,D] are zeros where `has_vector` [N] is false. int8 vectors are `values * scale`,
    with `scales` [N]; there are none for other types.
    """

    images: Sequence[EmbeddedImage]
    has_vector: npt.NDArray[np.bool_]
    values: npt.NDArray[Any]
    scales: npt.NDArray[np.float32] | None

    def scale_of(self, index: int) -> dict[str, float]:
        """Return what the row of an image says of its scale."""
        return {} if self.scales is None else {"scale": float(self.scales[index])}


@dataclass(frozen=True, slots=True)
class VectorFile:
    """The content of a file. `images` can be read several times; `projection` reduces them."""

    images: Callable[[], Iterator[EmbeddedImage]]
    source: VectorSource
    dtype: VectorType
    projection: Projection | None = None

    def write(self, path: Path) -> None:
        """Write the file in the format of its suffix.

        Raises:
            EffnetError: it cannot be written, or pyarrow is not installed.
        """
        WRITERS[path.suffix.lower()](self, path)

    def shape(self) -> tuple[int, int]:
        """Return the number of vectors, and their length."""
        count = dim = 0
        for vectors in read_vectors(self.images()):
            count, dim = count + len(vectors), vectors.shape[1]
        return count, dim if self.projection is None else self.projection.basis.shape[1]

    def chunks(self, dim: int) -> Iterator[StoredChunk]:
        """Yield images with their vectors of length `dim`, some at a time."""
        images = self.images()
        while chunk := list(islice(images, IMAGES_PER_CHUNK)):
            yield self._store(chunk, dim)

    @property
    def metadata(self) -> str:
        """What the vectors depend on, as JSON."""
        dim = None if self.projection is None else self.projection.basis.shape[1]
        return json.dumps({**asdict(self.source), "dim": dim, "dtype": self.dtype})

    def _store(self, chunk: list[EmbeddedImage], dim: int) -> StoredChunk:
        has_vector = np.array([image.vector is not None for image in chunk])
        values = np.zeros((len(chunk), dim), np.float32)
        vectors = [image.vector for image in chunk if image.vector is not None]
        if vectors:
            found = np.stack(vectors)
            values[has_vector] = self.projection.apply(found) if self.projection else found
        if self.dtype != "int8":
            return StoredChunk(chunk, has_vector, values.astype(self.dtype), scales=None)
        scales = np.abs(values).max(axis=1, initial=np.finfo(np.float32).tiny) / INT8_LIMIT
        rounded = np.rint(values / scales[:, None]).astype(np.int8)
        return StoredChunk(chunk, has_vector, rounded, scales=scales)


def read_vectors(images: Iterable[EmbeddedImage]) -> Iterator[Vectors]:
    """Yield the vectors of images, float32 [N,D], some at a time."""
    vectors = (image.vector for image in images if image.vector is not None)
    while chunk := list(islice(vectors, IMAGES_PER_CHUNK)):
        yield np.stack(chunk)


def check_suffix(path: Path) -> None:
    """Raise `UsageError` if no format has the suffix of `path`."""
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        what = f"Unsupported output format {suffix!r}" if suffix else f"{str(path)!r} has no suffix"
        raise UsageError(f"{what}.", f"Use {', '.join(WRITERS)}.")


# --- formats -------------------------------------------------------------------------------------


def _write_json_lines(file: VectorFile, path: Path) -> None:
    write(json_lines(_list_rows(file)), path)


def _list_rows(file: VectorFile) -> Iterator[Mapping[str, Any]]:
    _, dim = file.shape()
    for chunk in file.chunks(dim):
        for index, image in enumerate(chunk.images):
            if image.vector is None:
                yield to_row(image)
            elif file.dtype == "int8":
                row = to_row(replace(image, vector=None)) | chunk.scale_of(index)
                yield row | {"vector": chunk.values[index].tolist()}
            else:
                yield to_row(replace(image, vector=chunk.values[index]))


def _write_npy(file: VectorFile, path: Path) -> None:
    """Write an array [N,D] of the images that have a vector, and JSON lines of all images, whose
    `row` is the index in the array.
    """
    with atomic_write(path) as part:
        array = np.lib.format.open_memmap(part, "w+", np.dtype(file.dtype), file.shape())
        write(json_lines(_fill(file, array)), path.with_suffix(".jsonl"))
        array.flush()


def _fill(file: VectorFile, array: npt.NDArray[Any]) -> Iterator[Mapping[str, Any]]:
    """Fill the array, and yield the rows of all images."""
    end = 0
    for chunk in file.chunks(array.shape[1]):
        found = chunk.values[chunk.has_vector]
        array[end : end + len(found)] = found
        for index, image in enumerate(chunk.images):
            row = to_row(replace(image, vector=None))
            if image.vector is not None:
                row |= {"row": end} | chunk.scale_of(index)
                end += 1
            yield row


def _write_parquet(file: VectorFile, path: Path) -> None:
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError as error:
        message = f"{str(path)!r} is a Parquet file, which needs the package pyarrow."
        raise EffnetError(message, "Run pip install 'effnet-cli[parquet]', or use .npy.") from error
    _, dim = file.shape()
    number = arrow.from_numpy_dtype(np.dtype(file.dtype))
    texts = ("path", "status", "sha256", "error_kind", "error")
    schema = arrow.schema(
        {
            **dict.fromkeys(texts, arrow.string()),
            **({"scale": arrow.float32()} if file.dtype == "int8" else {}),
            "vector": arrow.list_(number, max(dim, 1)),
        },
        metadata={"effnet": file.metadata},
    )
    with atomic_write(path) as part, parquet.ParquetWriter(part, schema) as table:
        for chunk in file.chunks(max(dim, 1)):
            cells = list(zip(*map(_describe, chunk.images), strict=True))
            columns = [arrow.array(column, arrow.string()) for column in cells]
            is_missing = arrow.array(~chunk.has_vector)
            if chunk.scales is not None:
                columns.append(arrow.array(chunk.scales, mask=~chunk.has_vector))
            numbers = arrow.array(chunk.values.ravel(), number)
            columns.append(
                arrow.FixedSizeListArray.from_arrays(numbers, max(dim, 1), mask=is_missing)
            )
            table.write_table(arrow.Table.from_arrays(columns, schema=schema))


def _describe(image: EmbeddedImage) -> tuple[str | None, ...]:
    """Return the cells of an image before its vector; Parquet has UTF-8 only."""
    path = image.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    kind, message = (image.error.kind, image.error.message) if image.error else (None, None)
    return path, image.status, image.sha256 or None, kind, message


WRITERS: Mapping[str, Callable[[VectorFile, Path], None]] = {
    ".parquet": _write_parquet,
    ".npy": _write_npy,
    ".jsonl": _write_json_lines,
}
