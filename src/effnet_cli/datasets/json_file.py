"""Tables in JSON files: lists of objects, JSON lines, and the formats of annotation tools."""

import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from effnet_cli.datasets.columns import Cell
from effnet_cli.datasets.listing import LayoutError
from effnet_cli.datasets.table import SAMPLE_ROWS, LabelTable
from effnet_cli.system.text import quote_names

JSON_SUFFIXES = (".json",)
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson", ".manifest")
USE_TABLE = 'Use a list of objects such as {"path": "cat/1.jpg", "label": "cat"}.'
MAX_LIST_ITEMS = 1000  # labels of an image; longer lists are outlines, or features
MAX_KEYS = 1000  # in the objects of a file
Object = Mapping[str, Any]


def open_json(file: Path) -> LabelTable:
    """Open a JSON file: a list of objects, an object of labels by path, or COCO or FiftyOne labels.

    Raises:
        LayoutError: it cannot be read, or does not list images.
    """
    try:
        content = json.loads(file.read_bytes(), object_pairs_hook=_make_object)
        found = _find_objects(content)
    except (ValueError, RecursionError) as fault:
        message = f"{str(file)!r} is not valid JSON: {fault}."
        raise LayoutError("bad_json", message, "Export it again.") from fault
    except OSError as fault:
        raise _cannot_open(file, fault) from fault
    if found is not None:
        kind, objects = found
        return _make_table(file, kind, objects)
    what = "no list of objects"
    if isinstance(content, dict) and content:
        what = f"an object with {quote_names([key[:100] for key in content])}"
    raise LayoutError("bad_json", f"{str(file)!r} holds {what}.", USE_TABLE)


def _find_objects(content: Any) -> tuple[str, Sequence[Object]] | None:
    """Return the kind of a file and its objects, in the first shape that fits."""
    for kind, list_objects in SHAPES:
        objects = list_objects(content)
        if objects is not None:
            return kind, objects
    return None


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; JSON does not say which of two values of a key counts."""
    content = dict(pairs)
    if len(content) < len(pairs):
        _check_unique([key for key, _ in pairs], "key")
    return content


def _check_unique(names: Sequence[str], what: str) -> None:
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"the {what} {name[:100]!r} occurs twice")


def open_json_lines(file: Path) -> LabelTable:
    """Open a file with a JSON object on each line.

    Raises:
        LayoutError: as `open_json`.
    """

    def read() -> Iterator[tuple[int, Object]]:
        try:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield number, _parse_line(file, number, line)
        except OSError as fault:
            raise _cannot_open(file, fault) from fault

    return _tabulate(file, "a JSON lines file", read, unit="line")


def _parse_line(file: Path, number: int, line: bytes) -> Object:
    try:
        content = json.loads(line, object_pairs_hook=_make_object)
    except (ValueError, RecursionError) as fault:
        message = f"Line {number} of {str(file)!r} is not valid JSON: {fault}."
        raise LayoutError("bad_json", message, "Export it again.") from fault
    if not isinstance(content, dict):
        message = f"Line {number} of {str(file)!r} is not an object."
        raise LayoutError("bad_json", message, USE_TABLE)
    return content


def _make_table(file: Path, kind: str, objects: Sequence[Object]) -> LabelTable:
    return _tabulate(file, kind, lambda: iter(enumerate(objects, start=1)), unit="item")


def _tabulate(
    file: Path, kind: str, read: Callable[[], Iterator[tuple[int, Object]]], *, unit: str
) -> LabelTable:
    """Make columns of the keys of the first objects; those of inner objects get names with dots."""
    columns: dict[str, None] = {}
    for _, one in islice(read(), SAMPLE_ROWS):
        columns.update(dict.fromkeys(_flatten(one)))
        if len(columns) > MAX_KEYS:
            message = f"The objects in {str(file)!r} have more than {MAX_KEYS:,} different keys."
            raise LayoutError("bad_json", message, USE_TABLE)

    def read_rows() -> Iterator[tuple[int, Sequence[Cell]]]:
        for number, one in read():
            flat = _flatten(one)
            yield number, [flat.get(name, "") for name in columns]

    return LabelTable(file, kind, list(columns), read=read_rows, unit=unit)


def _flatten(content: Object) -> dict[str, Cell]:
    """Return the texts in an object by their keys; several different ones as a tuple."""
    found: dict[str, list[str]] = defaultdict(list)
    pending: deque[tuple[str, Any]] = deque([("", content)])
    while pending:
        name, value = pending.popleft()
        if isinstance(value, dict):
            pending += [(f"{name}.{key}" if name else str(key), one) for key, one in value.items()]
        elif isinstance(value, list):
            pending += [(name, one) for one in value[:MAX_LIST_ITEMS]]
        elif value is not None:
            found[name].append(json.dumps(value) if isinstance(value, bool) else str(value))
    unique = {name: tuple(dict.fromkeys(texts)) for name, texts in found.items()}
    return {name: texts[0] if len(texts) == 1 else texts for name, texts in unique.items()}


# --- shapes --------------------------------------------------------------------------------------


def _list_of_objects(content: Any) -> Sequence[Object] | None:
    is_list = isinstance(content, list) and content and all(isinstance(i, dict) for i in content)
    return content if is_list else None


def _coco(content: Any) -> Sequence[Object] | None:
    """Join the images, annotations and categories of a COCO file."""
    if not isinstance(content, dict):
        return None
    images, annotations, categories = (
        _list_of_objects(content.get(key)) for key in ("images", "annotations", "categories")
    )
    if images is None or annotations is None or categories is None:
        return None
    _check_unique([str(one.get("id")) for one in images], "id of images")
    _check_unique([str(one.get("id")) for one in categories], "id of categories")
    names = {str(one.get("id")): one.get("name") for one in categories}
    labels: dict[str, list[Any]] = defaultdict(list)
    for one in annotations:
        labels[str(one.get("image_id"))].append(names.get(str(one.get("category_id"))))
    return [
        {"file_name": one.get("file_name"), "label": labels.get(str(one.get("id")), [])}
        for one in images
    ]


def _fiftyone(content: Any) -> Sequence[Object] | None:
    """Read `{"classes": [...], "labels": {"<name>": <index>}}`."""
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        return None
    classes = content.get("classes")
    names = dict(enumerate(classes)) if isinstance(classes, list) else {}
    return [
        {"path": path, "label": names.get(label) if names and isinstance(label, int) else label}
        for path, label in content["labels"].items()
    ]


def _labels_by_path(content: Any) -> Sequence[Object] | None:
    if not isinstance(content, dict) or not content:
        return None
    if not all(isinstance(label, str | int) for label in content.values()):
        return None
    if all(path.isdecimal() for path in content):
        return None  # names of classes by their numbers
    return [{"path": path, "label": label} for path, label in content.items()]


def _only_list(content: Any) -> Sequence[Object] | None:
    """Return the objects of `{"data": [...]}`, whatever the name."""
    lists = (
        [*filter(None, map(_list_of_objects, content.values()))]
        if isinstance(content, dict)
        else []
    )
    return lists[0] if len(lists) == 1 else None


SHAPES: tuple[tuple[str, Callable[[Any], Sequence[Object] | None]], ...] = (
    ("a JSON file", _list_of_objects),
    ("a COCO file", _coco),
    ("a FiftyOne file", _fiftyone),
    ("a JSON file", _labels_by_path),
    ("a JSON file", _only_list),
)


def _cannot_open(file: Path, fault: OSError) -> LayoutError:
    message = f"Cannot read {str(file)!r}: {fault.strerror}."
    return LayoutError("unreadable", message, "Check its permissions.")
