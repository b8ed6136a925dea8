"""Datasets as other tools write them: read right, or refused with what to do instead."""

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_files import counts, fill, get_error, get_finding, kinds, png, put
from effnet_cli.datasets.labelled import load_labelled
from effnet_cli.datasets.records import Scan
from effnet_cli.datasets.scan import scan
from effnet_cli.options import DatasetOptions

CLASSES = ("cat", "dog")
SPLITS = {"train": 10, "val": 4}
Rows = list[tuple[str, str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def images(folder: str = "", count: int = 10, suffix: str = ".png") -> Rows:
    """Write images of two classes into one folder, and return their names and labels."""
    rows = []
    for number in range(count):
        for label in CLASSES:
            name = f"{label}{number}{suffix}"
            put(f"d/{folder}{name}", png(hash((folder, label, number)) % 2**32))
            rows.append((name, label))
    return rows


def write(name: str, text: str, encoding: str = "utf-8") -> Path:
    path = Path("d", name)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(text.encode(encoding))
    return path


def table(*columns: str, rows: list[tuple[Any, ...]], separator: str = ",") -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in (columns, *rows))


def read(path: str | Path = "d", **options: Any) -> Scan:
    return scan(Path(path), DatasetOptions(**options))


def check_read(result: Scan, train: int = 10) -> None:
    """Check that both classes were found, with all images, and that nothing is wrong."""
    assert result.dataset is not None, result.findings
    assert set(result.dataset.classes) == set(CLASSES), result.findings
    for row in result.classes:
        assert row.train + row.val == train, result.findings


# --- tables --------------------------------------------------------------------------------------

IMAGE_COLUMNS = ["filename", "file_name", "image", "image_path", "filepaths", "img", "name", "file",
                 "FileName", "Image Name", "id", "image_id", "img_id", "what_is_this"]  # fmt: skip


@pytest.mark.parametrize("name", IMAGE_COLUMNS)
@pytest.mark.parametrize("label", ["label", "labels", "class", "category", "breed", "dx", "target"])
def test_columns_are_recognised(name: str, label: str) -> None:
    write("labels.csv", table(name, label, rows=images()))
    result = read("d/labels.csv")
    check_read(result)
    message = get_finding(result, "read_as").message
    assert repr(name) in message
    assert repr(label) in message


def test_an_unknown_label_column_is_taken_if_it_is_the_only_one() -> None:
    rows = [(n, name, label) for n, (name, label) in enumerate(images())]
    write("labels.csv", table("", "image", "what", rows=rows))
    check_read(read("d/labels.csv"))


def test_columns_can_be_named() -> None:
    rows = [(name, "x", label, "y", "train" if n < 14 else "dev") for n, (name, label) in
            enumerate(images())]  # fmt: skip
    write("labels.csv", table("a", "label", "b", "c", "d", rows=rows))
    result = read("d/labels.csv", label_column="b", image_column="a", split_column="d")
    assert counts(result) == {"cat": (7, 3, None), "dog": (7, 3, None)}
    assert "'label', 'c'" in get_finding(result, "ignored_columns").message


def test_several_unknown_columns_are_refused_by_name() -> None:
    write("labels.csv", table("image", "who", "where", rows=[(n, x, x) for n, x in images()]))
    error = get_error("d/labels.csv")
    assert "'image', 'who', 'where'" in error.message
    assert "--label-column" in error.hint


def test_an_unknown_named_column_is_refused() -> None:
    write("labels.csv", table("image", "label", rows=images()))
    error = get_error("d/labels.csv", label_column="klass")
    assert "no column 'klass'" in error.message
    assert "'image', 'label'" in error.hint


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-32"])
def test_separators_and_encodings(separator: str, encoding: str) -> None:
    text = table("path", "label", rows=images(), separator=separator)
    if encoding == "utf-16-le-bom":
        text, encoding = "\ufeff" + text, "utf-16-le"
    write("labels.csv", text, encoding)
    check_read(read("d/labels.csv"))


def test_a_table_without_names_of_columns() -> None:
    rows = [(f"d/{name}", label) for name, label in images()]
    write("labels.csv", "".join(f"{path},{label}\n" for path, label in rows))
    check_read(read("d/labels.csv"))


def test_labels_keep_leading_zeros_and_lose_spaces() -> None:
    rows = [(name, " 007 " if label == "cat" else "7") for name, label in images()]
    write("labels.csv", table("path", "label", rows=rows))
    result = read("d/labels.csv")
    assert list(counts(result)) == ["007", "7"]
    assert get_finding(result, "spaces").count == 10


def test_spaces_after_separators_are_no_part_of_cells() -> None:
    write("labels.csv", table("path", ' "label"', rows=[(n, f' "{x}"') for n, x in images()]))
    check_read(read("d/labels.csv"))


@pytest.mark.parametrize(
    ("column", "train", "other", "place"),
    [
        ("is_valid", "False", "True", 1), ("is_valid", "0", "1", 1), ("is_test", "no", "yes", 2),
        ("is_train", "1", "0", 1), ("subset", "train", "val", 1), ("set", "Train", "TEST", 2),
        ("data set", "train", "valid", 1), ("partition", "train", "test", 2), ("fold", "train",
        "val", 1), ("Usage", "Training", "PrivateTest", 2), ("Usage", "Training", "PublicTest", 1),
        ("ml_use", "TRAINING", "VALIDATION", 1), ("anything", "train", "validation", 1),
    ],
)  # fmt: skip
def test_splits_of_other_names(column: str, train: str, other: str, place: int) -> None:
    rows = [(name, label, train if n < 20 else other) for n, (name, label) in
            enumerate(images(count=15))]  # fmt: skip
    write("labels.csv", table("path", "label", column, rows=rows))
    result = read("d/labels.csv")
    assert repr(column) in get_finding(result, "read_as").message
    for row in result.classes:
        assert row.train + (row.val if place == 2 else 0) == 10
        assert (row.val, row.test)[place - 1] == 5


def test_a_fold_column_is_named_as_not_used() -> None:
    rows = [(name, label, n % 5) for n, (name, label) in enumerate(images())]
    write("labels.csv", table("path", "label", "fold", rows=rows))
    result = read("d/labels.csv")
    check_read(result)
    assert "'fold'" in get_finding(result, "split_not_read").message


@pytest.mark.parametrize(
    "change",
    [
        lambda path: "images/" + path,
        lambda path: "images\\" + path,
        lambda path: path.removesuffix(".png"),
        lambda path: "C:\\Users\\me\\data\\images\\" + path,
        lambda path: "/home/me/images/" + path,
        lambda path: "s3://bucket/somewhere/" + path,
        lambda path: str(Path.cwd() / "d/images" / path),
        lambda path: "/data/upload/1/0a1b2c3d-" + path,
    ],
)
def test_paths_of_another_place(change: Callable[[str], str]) -> None:
    rows = [(change(name), label) for name, label in images("images/")]
    write("labels.csv", table("path", "label", rows=rows))
    check_read(read("d/labels.csv"))
    check_read(read("d"))


def test_a_missing_file_is_not_replaced_by_one_of_the_same_name() -> None:
    rows = [(f"a/{name}", label) for name, label in images("a/")]
    rows += [(f"b/{name}", label) for name, label in images("b/")]
    Path("d/a/cat3.png").unlink()
    write("labels.csv", table("path", "label", rows=rows))
    result = read("d/labels.csv", allow_bad=True)
    assert get_finding(result, "broken_files").paths == ("d/a/cat3.png",)


def test_a_name_of_several_images_is_refused() -> None:
    rows = images("a/")
    images("b/")
    write("labels.csv", table("path", "label", rows=rows))
    assert "ambiguous_path" in kinds(get_error("d/labels.csv").scan)


def test_one_column_for_each_class() -> None:
    rows = [(name, int(label == "cat"), int(label == "dog")) for name, label in images()]
    write("_classes.csv", table("filename", " cat", " dog", rows=rows))
    check_read(read("d"))
    rows[3] = (rows[3][0], 1, 1)
    write("_classes.csv", table("filename", "cat", "dog", rows=rows))
    error = get_error("d/_classes.csv")
    assert kinds(error.scan, "error") == ["several_labels"]
    assert "line 5 (cat, dog)" in error.message


def test_a_table_for_each_split() -> None:
    for split, count in SPLITS.items():
        rows = [(f"{split}_images/{name}", x) for name, x in images(f"{split}_images/", count)]
        write(f"{split}.csv", table("image", "label", rows=rows))
    images("test_images/", 3)
    write(
        "test.csv", table("image", "width", rows=[(f"test_images/cat{n}.png", 3) for n in (0, 1)])
    )
    result = read("d")
    assert counts(result) == {"cat": (10, 4, None), "dog": (10, 4, None)}
    assert "'test.csv'" in get_finding(result, "unused_tables").message
    assert len(load_labelled(Path("d")).labels) == 8


def test_metadata_in_each_split() -> None:
    for split, count in SPLITS.items():
        rows = images(f"data/{split}/", count)
        write(f"data/{split}/metadata.csv", table("file_name", "label", rows=rows))
    assert counts(read("d/data")) == {"cat": (10, 4, None), "dog": (10, 4, None)}


def test_several_tables_are_asked_about() -> None:
    write("a.csv", table("path", "label", rows=images()))
    write("b.csv", table("path", "label", rows=images()[::-1]))
    error = get_error("d")
    assert kinds(error.scan) == ["several_tables"]
    assert "'d/a.csv'" in error.hint


# --- JSON and Parquet ----------------------------------------------------------------------------


def label_studio(rows: Rows) -> Any:
    return [
        {
            "id": n,
            "data": {"image": f"/data/upload/3/0123abcd-{name}"},
            "annotations": [{"result": [{"type": "choices", "value": {"choices": [label]}}]}],
        }
        for n, (name, label) in enumerate(rows)
    ]


def coco(rows: Rows) -> Any:
    return {
        "images": [{"id": n, "file_name": name, "width": 32} for n, (name, _) in enumerate(rows)],
        "annotations": [
            {"id": 2 * n + k, "image_id": n, "category_id": 7 + CLASSES.index(label), "bbox": [k]}
            for n, (_, label) in enumerate(rows)
            for k in range(2)
        ],
        "categories": [{"id": 7 + k, "name": name} for k, name in enumerate(CLASSES)],
    }


JSON_SHAPES: dict[str, Callable[[Rows], Any]] = {
    "list": lambda rows: [{"image": name, "label": label} for name, label in rows],
    "min": lambda rows: [{"id": n, "image": f"/data/upload/1/{a}", "choice": b, "annotator": 1}
                         for n, (a, b) in enumerate(rows)],
    "dict": dict,
    "inner": lambda rows: {"info": {"year": 1}, "data": [{"file": a, "class": b} for a, b in rows]},
    "create_ml": lambda rows: [{"image": a, "annotations": [{"label": b}]} for a, b in rows],
    "label_studio": label_studio,
    "coco": coco,
    "fiftyone": lambda rows: {"classes": list(CLASSES), "labels": {
        name.removesuffix(".png"): CLASSES.index(label) for name, label in rows}},
}  # fmt: skip


@pytest.mark.parametrize("shape", JSON_SHAPES)
@pytest.mark.parametrize("place", ["", "annotations/"])
def test_json(shape: str, place: str) -> None:
    write(f"{place}labels.json", json.dumps(JSON_SHAPES[shape](images("data/"))))
    check_read(read(f"d/{place}labels.json"))
    check_read(read("d"))


JSON_LINES: dict[str, Callable[[str, str], Any]] = {
    "hugging_face": lambda name, label: {"file_name": name, "label": label},
    "azure": lambda name, label: {"image_url": f"AmlDatastore://store/{name}", "label": label,
                                  "image_details": {"format": "png", "width": "32px"}},
    "vertex": lambda name, label: {
        "imageGcsUri": f"gs://bucket/x/{name}",
        "classificationAnnotation": {"displayName": label},
        "dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": "training"}},
    "rekognition": lambda name, label: {
        "source-ref": f"s3://bucket/{name}", "job": CLASSES.index(label),
        "job-metadata": {"class-name": label, "confidence": 1, "human-annotated": "yes"}},
}  # fmt: skip


@pytest.mark.parametrize("tool", JSON_LINES)
@pytest.mark.parametrize("name", ["labels.jsonl", "out.manifest"])
def test_json_lines(tool: str, name: str) -> None:
    rows = [json.dumps(JSON_LINES[tool](*row)) for row in images("img/")]
    write(name, "\n".join(rows))
    check_read(read(f"d/{name}"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", "[1, 2]"), ("a.json", '{"x": {"y": 1}}'), ("a.json", "{"), ("a.json", "[" * 99999),
     ("a.jsonl", '{"path": 1}\n[]\n'), ("a.jsonl", "{\n"), ("a.json", "[]"), ("a.jsonl", "")],
)  # fmt: skip
def test_other_json_is_refused(name: str, text: str) -> None:
    error = get_error(str(write(name, text)))
    assert error.hint


def test_several_labels_of_an_image_are_refused() -> None:
    objects = [{"image": name, "labels": [label, "pet"]} for name, label in images()]
    error = get_error(str(write("a.json", json.dumps(objects))))
    assert kinds(error.scan, "error")[0] == "several_labels"


@pytest.mark.parametrize("separator", ["|", ";", ", ", " "])
def test_labels_made_of_others_are_told(separator: str) -> None:
    rows = [(name, label) for name, label in images()]
    rows[4] = (rows[4][0], f"cat{separator}dog")
    path = write("a.csv", table("path", "label", rows=rows, separator="\t"))
    level = "warning" if separator == " " else "error"
    (found,) = [one for one in read(path).findings if one.kind == "several_labels"]
    assert (found.level, f"cat{separator}dog" in found.message) == (level, True)
    rows[4] = (rows[4][0], f"red{separator}fox")
    write("a.csv", table("path", "label", rows=rows, separator="\t"))
    assert "several_labels" not in kinds(read(path))


def write_parquet(rows: Rows, **columns: Any) -> Path:
    names = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}
    labels = [CLASSES.index(label) for _, label in rows]
    content = pa.table({**columns, "label": labels})
    content = content.replace_schema_metadata({"huggingface": json.dumps(names)})
    Path("d").mkdir(exist_ok=True)
    pq.write_table(content, "d/data.parquet", row_group_size=3)
    return Path("d/data.parquet")


def test_parquet_with_images() -> None:
    rows = [(f"{n}.png", CLASSES[n % 2]) for n in range(20)]
    content = [{"bytes": png(n), "path": name} for n, (name, _) in enumerate(rows)]
    path = write_parquet(rows, image=content)
    check_read(read(path))
    assert load_labelled(path).paths[0] == "d/data.parquet/image/0"
    content[4]["bytes"] = b""
    result = read(write_parquet(rows, image=content))
    assert get_finding(result, "broken_files").paths == ("d/data.parquet/image/4",)


def test_parquet_with_paths() -> None:
    rows = images("img/")
    check_read(read(write_parquet(rows, file_name=[name for name, _ in rows])))


# --- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("Training Data", "Validation Data"), ("seg_train/seg_train", "seg_val/seg_val"),
        ("train_images", "val_images"), ("TrainSet", "ValSet"), ("train/train", "valid/valid"),
        ("imgs_train", "imgs_dev"), ("01_train", "02_val"),
    ],
)  # fmt: skip
def test_folders_of_splits_under_other_names(names: tuple[str, str]) -> None:
    for name, count in zip(names, SPLITS.values(), strict=True):
        for label in CLASSES:
            fill(f"d/{name}/{label}", count)
    fill("d/seg_pred" if "seg" in names[0] else "d/unlabeled", 3)
    result = read()
    assert counts(result) == {"cat": (10, 4, None), "dog": (10, 4, None)}


def test_labels_in_the_names_of_images() -> None:
    for number in range(10):
        put(f"d/train/cat.{number}.png")
        put(f"d/train/dog.{number}.png")
        put(f"d/test1/{number}.png")
    error = get_error()
    assert "'cat', 'dog'" in error.message
    pattern = error.hint.split("--label-pattern ")[1].strip("'")
    assert "d/train" in error.hint
    check_read(read("d/train", label_pattern=pattern))
    data = load_labelled(Path("d/train"), options=DatasetOptions(label_pattern=pattern))
    assert data.classes == CLASSES


def test_a_pattern_can_name_splits() -> None:
    for number in range(10):
        for label in CLASSES:
            put(f"d/{label}-{'train' if number < 7 else 'val'}-{number}.png")
    pattern = "(?P<label>[a-z]+)-(?P<split>[a-z]+)"
    assert counts(read(label_pattern=pattern)) == {"cat": (7, 3, None), "dog": (7, 3, None)}
    put("d/other.png")
    assert get_finding(read(label_pattern=pattern), "no_match").count == 1


@pytest.mark.parametrize("pattern", ["(", "a", "(a)(b)", "(nothing)"])
def test_a_pattern_without_a_label_is_refused(pattern: str) -> None:
    images()
    error = get_error(label_pattern=pattern)
    assert pattern in error.message
    assert "^([^/]+)/" in error.hint


def test_folders_that_look_like_splits_are_asked_about() -> None:
    for name in ("train", "test1", "extra"):
        fill(f"d/{name}", 10)
    error = get_error()
    assert kinds(error.scan) == ["looks_like_splits"]
    assert set(counts(read(label_pattern="^([^/]+)/"))) == {"train", "test1", "extra"}


def test_folders_with_the_same_folders_are_asked_about() -> None:
    for site in ("north", "south"):
        for label in CLASSES:
            fill(f"d/{site}/{label}", 5)
    error = get_error()
    assert kinds(error.scan) == ["looks_like_splits"]
    check_read(read(label_pattern="([^/]+)/[^/]+$"))
    assert list(counts(read(label_pattern="^([^/]+)/"))) == ["north", "south"]


def test_unlabelled_images_are_no_class() -> None:
    for name in (*CLASSES, "_unlabeled"):
        fill(f"d/{name}", 10)
    result = read()
    check_read(result)
    assert get_finding(result, "no_labels").paths == ("d/_unlabeled",)


def test_a_table_beside_class_folders_is_named() -> None:
    for name in CLASSES:
        fill(f"d/{name}", 10)
    write("labels.csv", table("path", "label", rows=[(f"{x}/1.png", "a") for x in CLASSES]))
    result = read()
    check_read(result)
    finding = get_finding(result, "unused_files")
    assert "'labels.csv'" in finding.message
    assert "'d/labels.csv'" in finding.hint


def test_images_in_numbered_folders_with_a_table() -> None:
    rows = images("part_1/") + [(f"x_{name}", label) for name, label in images("part_2/")]
    for path in Path("d/part_2").iterdir():
        path.rename(path.with_name(f"x_{path.name}"))
    ids = [(name.removesuffix(".png"), label, "consensus") for name, label in rows]
    write("metadata.csv", table("image_id", "dx", "dx_type", rows=ids))
    check_read(read(), train=20)


# --- archives ------------------------------------------------------------------------------------


def members(splits: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    for split, count in splits.items():
        for label in CLASSES:
            for number in range(count):
                yield f"{split}{label}/{number}.png", png(hash((split, label, number)) % 2**32)


def write_zip(files: Iterator[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile("set.zip", "w") as file:
        for name, content in files:
            file.writestr(name, content)
    return Path("set.zip")


def write_tar(files: Iterator[tuple[str, bytes]], name: str = "set.tar") -> Path:
    with tarfile.open(name, "w" if name.endswith("tar") else "w:gz") as file:
        for name_, content in files:
            member = tarfile.TarInfo(name_)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return Path(name)


@pytest.mark.parametrize("pack", [write_zip, write_tar])
@pytest.mark.parametrize("top", ["", "set/", "a/b/"])
def test_archives_of_class_folders(pack: Callable[..., Path], top: str) -> None:
    path = pack(members({top: 10}))
    check_read(read(path))
    splits = pack(members({f"{top}train/": 10, f"{top}test/": 3}))
    assert counts(read(splits)) == {"cat": (8, 2, 3), "dog": (8, 2, 3)}
    assert len(load_labelled(splits).labels) == 6


def test_names_that_lead_out_of_an_archive_are_skipped() -> None:
    files = [*members({"": 10}), ("../evil/1.png", png(1)), ("/etc/x/1.png", png(2)),
             ("__MACOSX/cat/._1.png", b"x")]  # fmt: skip
    result = read(write_zip(iter(files)))
    check_read(result)
    assert get_finding(result, "unsafe_name").count == 2


def test_a_file_that_claims_too_many_bytes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_cli.images.archives.MAX_MEMBER_BYTES", 5000)
    with zipfile.ZipFile("set.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members({"": 12}):
            file.writestr(name, content)
        file.writestr("cat/bomb.png", b"\0" * 100_000)
    error = get_error("set.zip")
    assert get_finding(error.scan, "broken_files").paths == ("set.zip/cat/bomb.png",)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"PK" * 50])
def test_a_damaged_archive_is_refused(damage: Callable[[bytes], bytes]) -> None:
    path = write_zip(members({"": 10}))
    path.write_bytes(damage(path.read_bytes()))
    error = get_error(str(path))
    assert kinds(error.scan) == ["bad_archive"]


def test_a_damaged_file_in_an_archive_is_one_broken_image() -> None:
    path = write_zip(members({"": 10}))
    content = bytearray(path.read_bytes())
    content[content.index(b"cat/4.png") + 40] ^= 255
    path.write_bytes(content)
    result = read(path, allow_bad=True)
    assert get_finding(result, "broken_files").paths == ("set.zip/cat/4.png",)


def test_web_dataset() -> None:
    files = []
    for number in range(20):
        label = CLASSES[number % 2]
        files += [(f"{number:06}.png", png(number)), (f"{number:06}.cls", str(number % 2).encode()),
                  (f"{number:06}.json", json.dumps({"label": label}).encode())]  # fmt: skip
    check_read(read(write_tar(iter(files))))
    files = [file for file in files if not file[0].endswith("json")]
    assert list(counts(read(write_tar(iter(files))))) == ["0", "1"]


# --- formats that are not read -------------------------------------------------------------------


def write_yolo() -> str:
    images("train/images/")
    write("train/labels/cat0.txt", "0 0.5 0.5 1 1")
    write("data.yaml", "names: [cat, dog]")
    return "d"


def write_voc() -> str:
    images("JPEGImages/")
    write("Annotations/cat0.xml", "<annotation/>")
    return "d"


def write_file(name: str, content: bytes = b"") -> Callable[[], str]:
    return lambda: str(put(f"d/{name}", content or b"PK\3\4"))


OTHERS: dict[str, Callable[[], str]] = {
    "yolo": write_yolo,
    "voc": write_voc,
    "xlsx": write_file("labels.xlsx"),
    "cifar": write_file("data_batch_1", pickle.dumps({"data": 1})),
    "idx": write_file("train-images-idx3-ubyte", b"\0\0\x08\x03"),
    "tfrecord": write_file("train.tfrecord-00000-of-00005", b"\0"),
    "npz": lambda: (put("d/x", b""), np.savez("d/x.npz", a=np.zeros(3)), "d/x.npz")[2],
    "targz": lambda: str(write_tar(members({"": 1}), "set.tar.gz")),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_refused_with_a_way_out(name: str) -> None:
    error = get_error(OTHERS[name]())
    assert error.scan.layout == "not recognised"
    assert len(error.hint) > 20
    assert "Traceback" not in error.message


# --- what could be read in several ways ----------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["images", "masks"], "looks_like_parts"), (["images", "annotations"], "looks_like_parts"),
        (["images_a", "images_b"], "looks_like_parts"), (["cars_train", "cars_test", "devkit"],
        "looks_like_splits"), (["train", "holdout"], "looks_like_splits"), (["trainA", "trainB"],
        "looks_like_splits"), (["fold_1", "fold_2"], "looks_like_splits"), (["query", "gallery"],
        "looks_like_splits"), (["val_256", "data_256"], "looks_like_splits"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_packed", [False, True])
def test_folders_that_are_hardly_classes_are_asked_about(
    names: list[str], kind: str, is_packed: bool
) -> None:
    for name in names:
        fill(f"d/{name}", 4)
    root = "d"
    if is_packed:
        root = str(
            write_zip((str(p.relative_to("d")), p.read_bytes()) for p in Path("d").rglob("*.png"))
        )
    error = get_error(root)
    assert kinds(error.scan) == [kind]
    assert "--label-pattern '^([^/]+)/'" in error.hint
    assert set(counts(read(root, label_pattern="^([^/]+)/"))) == set(names)


@pytest.mark.parametrize("is_packed", [False, True])
def test_another_level_of_folders_is_asked_about(is_packed: bool) -> None:
    for name in ("north/cat", "north/dog", "south/cat"):
        fill(f"d/{name}", 4)
    root = "d"
    if is_packed:
        root = str(
            write_zip((str(p.relative_to("d")), p.read_bytes()) for p in Path("d").rglob("*.png"))
        )
    assert kinds(get_error(root).scan) == ["looks_like_splits"]


def test_a_table_never_replaces_class_folders() -> None:
    for name in ("0", "1"):
        fill(f"d/{name}", 5)
    write("predictions.csv", table("path", "label", rows=[("0/1.png", "x"), ("1/1.png", "y")]))
    assert list(counts(read())) == ["0", "1"]
    for name in CLASSES:
        fill(f"e/data/{name}", 5)
    Path("e/labels.csv").write_text("path,label\ndata/cat/1.png,x\ndata/dog/1.png,y\n")
    assert kinds(get_error("e").scan) == ["table_or_folders"]


@pytest.mark.parametrize("name", ["sampleSubmission.csv", "stage_2_sample_submission.csv"])
def test_submissions_are_no_labels(name: str) -> None:
    for number in range(5):
        for label in CLASSES:
            put(f"d/train/{label}.{number}.png")
        put(f"d/test1/{number}.png")
    write(name, table("id", "label", rows=[(n, n % 2) for n in range(5)]))
    assert "'cat', 'dog'" in get_error().message


def test_flags_of_several_splits_are_refused() -> None:
    rows = [(name, label, 0, n % 2) for n, (name, label) in enumerate(images())]
    error = get_error(str(write("a.csv", table("path", "label", "is_valid", "is_test", rows=rows))))
    assert kinds(error.scan) == ["several_splits"]


def test_images_of_another_folder_are_not_taken() -> None:
    rows = [(f"train/{name}", label) for name, label in images("test/")]
    path = write("list.csv", table("path", "label", rows=rows))
    assert get_finding(read(path), "broken_files").count == 20
    images("train/")
    absolute = [(f"/home/me/{name}", label) for name, label in rows]
    path = write("absolute.csv", table("path", "label", rows=absolute))
    result = read(path)
    check_read(result)
    assert result.dataset is not None
    assert {Path(path).parent.name for path in result.dataset.train.paths} == {"train"}
    for file in Path("d/train").iterdir():
        file.unlink()
    assert read(path).dataset is None


@pytest.mark.parametrize("label", ["NA", "nan", "null", "['cat', 'dog']", '{"choices": ["cat"]}'])
def test_labels_that_are_none_are_refused(label: str) -> None:
    rows = [*images(), (images()[0][0], label)]
    path = write("a.csv", table("path", "label", rows=rows, separator="\t"))
    kind = "several_labels" if label[0] in "[{" else "empty_label"
    assert kinds(get_error(str(path)).scan, "error")[0] == kind


def test_cells_that_no_column_has_are_refused() -> None:
    text = table("path", "label", rows=[*images()[:-1], ("dog9.png", "dog", " black")])
    error = get_error(str(write("a.csv", text)))
    assert "dog9.png, dog,  black" in error.message
    text = table("path", "label", rows=[(name, label, "", "") for name, label in images()])
    check_read(read(write("a.csv", text)))


@pytest.mark.parametrize("first", ["# made by hand\n", "\n", "sep=,\n"])
def test_lines_before_the_table_are_skipped(first: str) -> None:
    check_read(read(write("a.csv", first + table("path", "label", rows=images()))))


def test_names_of_rows_have_no_column() -> None:
    rows = [(f'"{n}"', name, label) for n, (name, label) in enumerate(images())]
    check_read(read(write("a.csv", table("path", "label", rows=rows))))


@pytest.mark.parametrize("separator", [",", " "])
def test_tables_without_names_of_columns(separator: str) -> None:
    rows = [(name.removesuffix(".png") if separator == "," else name, x) for name, x in images()]
    text = "".join(separator.join(row) + "\n" for row in rows)
    check_read(read(write("a.csv", text)))


def test_numbers_are_not_matched_with_names_of_images() -> None:
    rows = [(str(n), f"{n + 1}.png", CLASSES[n % 2]) for n in range(20)]
    for n in range(21):
        put(f"d/{n}.png")
    result = read(write("a.csv", table("nr", "scan", "label", rows=rows)))
    check_read(result)
    assert "'scan'" in get_finding(result, "read_as").message
    path = write("b.csv", table("scan", "width", rows=[row[1:] for row in rows]))
    assert kinds(get_error(str(path)).scan) == ["missing_column"]


@pytest.mark.parametrize(
    "options",
    [
        {"label_column": "x", "label_pattern": "(a)"},
        {"group_column": "x", "group_pattern": "(a)"},
        {"group_pattern": "nothing"},
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, str]) -> None:
    for name in CLASSES:
        fill(f"d/{name}", 5)
    assert get_error(**options).hint
    archive = write_zip(members({"": 5}))
    assert "--label-column" in get_error(str(archive), label_column="x").message


def test_links_and_repeated_names_in_archives() -> None:
    with tarfile.open("a.tar", "w") as file:
        for name, content in members({"": 5}):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
        for kind, name in ((tarfile.LNKTYPE, "cat/linked.png"), (tarfile.SYMTYPE, "cat/soft.png")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "cat/1.png"
            file.addfile(member)
    result = read("a.tar")
    assert get_finding(result, "copies").count == 1
    assert get_finding(result, "unreadable_members").count == 1


def test_broken_annotations_are_refused() -> None:
    strings = {"images": [], "annotations": [], "categories": ["a"]}
    for content in (strings, {"images": [{"id": [1]}], "annotations": [None], "categories": []}):
        assert get_error(str(write("a.json", json.dumps(content)))).hint
    error = get_error(str(write("a.json", '{"a.png": "cat", "a.png": "dog"}')))
    assert "'a.png' occurs twice" in error.message
    error = get_error(str(write("a.jsonl", '{"path": "a.png", "label": "cat", "label": "dog"}')))
    assert "'label' occurs twice" in error.message


@pytest.mark.parametrize("repeated", ["images", "categories"])
def test_coco_ids_that_occur_twice_are_refused(repeated: str) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [{"image_id": 1, "category_id": 1}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    content[repeated][1]["id"] = 1
    error = get_error(str(write("a.json", json.dumps(content))))
    assert f"the id of {repeated} '1' occurs twice" in error.message


def test_the_same_number_written_in_two_ways_is_warned_of() -> None:
    rows = [(name, {"cat": "1", "dog": "1.0"}[label]) for name, label in images()]
    write("labels.csv", table("path", "label", rows=rows))
    assert "'1', '1.0'" in get_finding(read("d"), "similar_names").message


def test_shards_of_a_split_are_read_together() -> None:
    for split, count in SPLITS.items():
        for part in range(2):
            rows = [(f"{n}.png", CLASSES[n % 2]) for n in range(count)]
            content = [{"bytes": png(hash((split, part, n)) % 2**32)} for n in range(count)]
            path = write_parquet(rows, image=content)
            Path("d/data").mkdir(exist_ok=True)
            path.rename(f"d/data/{split}-{part:05}-of-00002.parquet")
    assert counts(read("d")) == {"cat": (10, 4, None), "dog": (10, 4, None)}
