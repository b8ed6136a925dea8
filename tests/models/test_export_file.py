"""Exported files that are damaged, foreign or hostile are rejected before a runtime loads them."""

import hashlib
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from effnet_cli.engines.registry import plan_engine
from effnet_cli.export.run import export
from effnet_cli.finetune.run_dir import to_arrays
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.models import build, checkpoint, export_file
from effnet_cli.models.card import ModelCard
from effnet_cli.models.variants import HALF, find_variant
from effnet_cli.options import (
    EngineOptions,
    ExportOptions,
    ExportTask,
    ModelOptions,
    TargetName,
)
from effnet_cli.system.errors import UsageError
from helpers import SAMPLES, lively
from imports import HEAVY, imported_by
from training import CommandResult

pytestmark = pytest.mark.usefixtures("one_core")

IMAGE = SAMPLES / "cat.jpg"
CLASSES = ("cat", "dog", "[red]=cmd()")
Effnet = Callable[..., CommandResult]
CopyExport = Callable[[TargetName], Path]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelOptions:
    """A model of 64 px and three classes."""
    card = ModelCard("lite0", CLASSES, Preprocessing(64, 64, "bicubic", HALF, HALF))
    folder = tmp_path_factory.mktemp("source")
    module = lively(build.build(find_variant("lite0"), len(CLASSES)))
    checkpoint.write(folder / "model.safetensors", card, to_arrays(module.state_dict()))
    return ModelOptions(model=folder)


@pytest.fixture(scope="module")
def exports(
    source: ModelOptions, tmp_path_factory: pytest.TempPathFactory, caches: None
) -> Callable[[TargetName], Path]:
    """One export per target."""
    paths: dict[TargetName, Path] = {}

    def export_once(target: TargetName) -> Path:
        if target not in paths:
            output = tmp_path_factory.mktemp(target)
            result = export(ExportTask(source, ExportOptions(target), output, force=True))
            assert result.path is not None
            paths[target] = result.path
        return paths[target]

    return export_once


@pytest.fixture
def copy_export(exports: CopyExport, tmp_path: Path) -> CopyExport:
    """Copy an export, in order to damage it."""

    def copy(target: TargetName) -> Path:
        path = exports(target)
        folder = tmp_path / target
        shutil.copytree(path.parent, folder)
        return folder / path.name

    return copy


def update_digests(path: Path) -> None:
    """Update the JSON to match a changed file."""
    json_file = export_file.json_path(path)
    metadata = json.loads(json_file.read_text())
    metadata["files"] = {
        name: hashlib.sha256(path.with_name(name).read_bytes()).hexdigest()
        for name in metadata["files"]
    }
    json_file.write_text(json.dumps(metadata))


def assert_rejected(done: CommandResult, words: str, status: int = 2) -> None:
    assert done.status == status, done.stderr
    assert done.stdout == b""
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2


# --- files that belong together -------------------------------------------------------------------


@pytest.mark.parametrize("target", ["onnx", "openvino", "litert"])
def test_flipped_byte_is_rejected(
    target: TargetName, copy_export: CopyExport, effnet: Effnet
) -> None:
    path = copy_export(target)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert_rejected(
        effnet("predict", IMAGE, "--model", path), f"the content of '{path.name}' does not match"
    )


def test_openvino_weights_are_checked(copy_export: CopyExport, effnet: Effnet) -> None:
    path = copy_export("openvino")
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert_rejected(effnet("predict", IMAGE, "--model", path), weights.name)
    weights.unlink()
    assert_rejected(
        effnet("predict", IMAGE, "--model", path), f"its other file '{weights.name}' is missing"
    )


@pytest.mark.parametrize("target", ["onnx", "litert"])
def test_predict_needs_neither_torch_nor_onnx(target: TargetName, copy_export: CopyExport) -> None:
    path = copy_export(target)
    imported_by("predict", IMAGE, "--model", path)  # the first run checks the ONNX file
    assert not imported_by("predict", IMAGE, "--model", path) & HEAVY


@pytest.mark.parametrize("target", ["onnx", "openvino", "litert"])
def test_files_may_be_renamed_together(
    target: TargetName, copy_export: CopyExport, effnet: Effnet
) -> None:
    path = copy_export(target)
    names = {path, export_file.json_path(path), path.with_suffix(".bin")}
    for file in filter(Path.exists, names):
        file.rename(file.with_name(file.name.replace(path.stem, "other [name]")))
    done = effnet("predict", IMAGE, "--model", path.with_stem("other [name]"))
    assert done.status == 0


@pytest.mark.parametrize("option", ["--html", "--output"])
@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_model_is_not_overwritten(
    option: str, target: TargetName, copy_export: CopyExport, effnet: Effnet
) -> None:
    path = copy_export(target)
    parts = [path, export_file.json_path(path), *path.parent.glob("*.bin")]
    before = [part.read_bytes() for part in parts]
    for part in parts:
        done = effnet("predict", IMAGE, "--model", path, option, part)
        assert_rejected(done, "belongs to a model and would be overwritten.")
    assert [part.read_bytes() for part in parts] == before


@pytest.mark.linux
@pytest.mark.parametrize("target", ["onnx", "openvino", "litert"])
def test_symlink_is_followed(
    target: TargetName, copy_export: CopyExport, effnet: Effnet, tmp_path: Path
) -> None:
    path = copy_export(target)
    link = tmp_path / f"link{path.suffix}"
    link.symlink_to(path)
    assert effnet("predict", IMAGE, "--model", link).status == 0


@pytest.mark.parametrize("target", ["openvino", "litert"])
def test_missing_json_is_reported(
    target: TargetName, copy_export: CopyExport, effnet: Effnet
) -> None:
    path = copy_export(target)
    export_file.json_path(path).unlink()
    assert_rejected(effnet("predict", IMAGE, "--model", path), "is not beside it")


def test_onnx_file_needs_no_json(copy_export: CopyExport, effnet: Effnet) -> None:
    path = copy_export("onnx")
    with_json = effnet("predict", IMAGE, "--model", path, "-f", "json")
    export_file.json_path(path).unlink()
    without = effnet("predict", IMAGE, "--model", path, "-f", "json")
    assert with_json.status == without.status == 0
    assert with_json.stdout == without.stdout
    assert json.loads(without.stdout)[0]["predictions"][0]["label"] in CLASSES


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda metadata: metadata.update(format_version=2), "its format version is 2"),
        (
            lambda metadata: metadata.pop("classes"),
            "is damaged (its header has no 'classes')",
        ),
        (
            lambda metadata: metadata.pop("variant"),
            "is damaged (its header has no 'variant')",
        ),
        (lambda metadata: metadata.update(who=1), "contains the unknown field 'who'"),
        (
            lambda metadata: metadata.update(preprocessing=None),
            "its preprocessing is not a JSON object",
        ),
        (
            lambda metadata: metadata["preprocessing"].pop("std"),
            "its preprocessing has no 'std'",
        ),
        (
            lambda metadata: metadata["preprocessing"].update(crop_px=48),
            "images of 48 px do not fit",
        ),
        (
            lambda metadata: metadata["preprocessing"].update(resize_px=10**9),
            "its resize_px is 10000000",
        ),
        (lambda metadata: metadata.update(temperature=1e-320), "its temperature is 1e-320"),
        (lambda metadata: metadata.update(export=None), "its 'export' is not a JSON object"),
        (lambda metadata: metadata.update(input=[]), "is damaged"),
        (lambda metadata: metadata.pop("files"), "is damaged"),
        (lambda metadata: metadata.update(files={}), "describes []"),
        (lambda metadata: metadata.update(temperature=0), "its temperature is 0"),
        (lambda metadata: metadata.update(files={"../lite0.onnx": "0"}), "does not match"),
        (lambda metadata: metadata.update(files={"lite0.xml": "0"}), "describes"),
        (lambda metadata: metadata.update(files=[1]), "is damaged"),
        (lambda metadata: metadata.update(export={}), "does not say what was exported"),
        (
            lambda metadata: metadata.update(export={"target": "onnx"}),
            "does not say what was exported",
        ),
        (lambda metadata: metadata["export"].update(batch="two"), "does not say what was exported"),
        (
            lambda metadata: metadata["export"].update(feature_maps="c2"),
            "does not say what was exported",
        ),
    ],
)
def test_damaged_json_is_rejected(
    change: Callable[[dict[str, Any]], object], words: str, copy_export: CopyExport, effnet: Effnet
) -> None:
    path = copy_export("onnx")
    json_file = export_file.json_path(path)
    metadata = json.loads(json_file.read_text())
    change(metadata)
    json_file.write_text(json.dumps(metadata))
    assert_rejected(effnet("predict", IMAGE, "--model", path), words)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_json_may_be_edited_in_utf_8(
    encoding: str, copy_export: CopyExport, effnet: Effnet
) -> None:
    path = copy_export("litert")
    json_file = export_file.json_path(path)
    metadata = json.loads(json_file.read_text())
    metadata["classes"] = [f"{name} 猫" for name in metadata["classes"]]
    json_file.write_text(json.dumps(metadata, ensure_ascii=False), encoding=encoding)
    done = effnet("predict", IMAGE, "--model", path, "-f", "json")
    assert json.loads(done.stdout)[0]["predictions"][0]["label"].endswith(" 猫")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"files": NaN}', b"[" * 99999]
)
def test_invalid_json_is_rejected(content: bytes, copy_export: CopyExport, effnet: Effnet) -> None:
    path = copy_export("onnx")
    export_file.json_path(path).write_bytes(content)
    assert_rejected(effnet("predict", IMAGE, "--model", path), ".onnx.json' beside it is damaged")


def test_huge_json_is_not_read(copy_export: CopyExport, effnet: Effnet) -> None:
    path = copy_export("onnx")
    with export_file.json_path(path).open("r+b") as file:
        file.truncate(export_file.MAX_EXPORT_JSON_BYTES + 1)
    assert_rejected(effnet("predict", IMAGE, "--model", path), "bytes")


def test_more_classes_than_outputs_are_reported(copy_export: CopyExport, effnet: Effnet) -> None:
    path = copy_export("litert")
    json_file = export_file.json_path(path)
    metadata = json.loads(json_file.read_text())
    metadata["classes"].append("wolf")
    json_file.write_text(json.dumps(metadata))
    done = effnet("predict", IMAGE, "--model", path)
    assert done.status == 1
    assert "returned shape [1, 3], but its JSON lists 4 classes" in done.stderr


def test_missing_file_and_wrong_engine_are_refused(copy_export: CopyExport, effnet: Effnet) -> None:
    assert_rejected(effnet("predict", IMAGE, "--model", "none.onnx"), "'none.onnx'")
    path = copy_export("onnx")
    done = effnet("predict", IMAGE, "--model", path, "--engine", "litert")
    assert_rejected(done, "litert does not support .onnx files")
    done = effnet("predict", IMAGE, "--model", path, "--precision", "int8")
    assert_rejected(done, "Unknown precision 'int8'.")
    with pytest.raises(UsageError, match="Unknown precision 'int8'"):
        plan_engine(EngineOptions("cpu", precision="int8"), "onnx")  # type: ignore[arg-type]
    done = effnet("predict", IMAGE, "--engine", "executorch")
    assert_rejected(done, "executorch does not support model files")


def test_exported_model_cannot_be_trained(
    copy_export: CopyExport, effnet: Effnet, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    done = effnet("finetune", tmp_path / "data", "--model", copy_export("onnx"))
    assert done.status == 2
    assert "from which weights cannot be loaded" in done.stderr


# --- unsafe files ------------------------------------------------------------


def add_loop(graph: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    graph.graph.node.append(helper.make_node("Loop", ["", ""], ["x"], body=body))


def add_subgraph(graph: onnx.ModelProto) -> None:
    graph.graph.node[0].attribute.append(
        helper.make_attribute("body", helper.make_graph([], "body", [], []))
    )


def use_foreign_operator(graph: onnx.ModelProto) -> None:
    graph.graph.node[0].domain = "com.evil"


def add_function(graph: onnx.ModelProto) -> None:
    graph.functions.append(
        helper.make_function("", "Conv", ["x"], ["y"], [], [helper.make_opsetid("", 17)])
    )


def refer_to_other_file(graph: onnx.ModelProto) -> None:
    tensor = graph.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def set_absurd_size(graph: onnx.ModelProto) -> None:
    graph.graph.initializer[0].dims[0] = 10**15


def add_absurd_attribute(graph: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(1, np.float32))
    tensor.dims[0] = 10**15
    graph.graph.node[0].attribute.append(helper.make_attribute("value", tensor))


def remove_header(graph: onnx.ModelProto) -> None:
    del graph.metadata_props[:]


def duplicate_header(graph: onnx.ModelProto) -> None:
    graph.metadata_props.append(graph.metadata_props[0])


UNSAFE_CHANGES = [
    add_loop,
    add_subgraph,
    use_foreign_operator,
    add_function,
    refer_to_other_file,
    set_absurd_size,
    add_absurd_attribute,
    remove_header,
    duplicate_header,
]


@pytest.mark.parametrize("with_json", [False, True])
@pytest.mark.parametrize("change", UNSAFE_CHANGES)
def test_unsafe_onnx_files_are_rejected(
    change: Callable[[onnx.ModelProto], None],
    with_json: bool,
    copy_export: CopyExport,
    effnet: Effnet,
) -> None:
    path = copy_export("onnx")
    graph = onnx.load(path)
    change(graph)
    path.write_bytes(graph.SerializeToString())
    if with_json:
        update_digests(path)
    else:
        export_file.json_path(path).unlink()
    assert_rejected(effnet("predict", IMAGE, "--model", path), "is not an exported model")


@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_damaged_onnx_files_are_rejected(
    exports: CopyExport, tmp_path_factory: pytest.TempPathFactory, noise: bytes, place: int
) -> None:
    content = bytearray(exports("onnx").read_bytes())
    start = place % len(content)
    content[start : start + len(noise)] = noise
    path = tmp_path_factory.getbasetemp() / "noisy.onnx"
    path.write_bytes(content)
    try:
        card = export_file.read_card(path)
    except export_file.UsageError as error:
        assert "noisy.onnx" in error.message
    else:
        assert card.classes


@pytest.mark.parametrize(
    ("when", "engine", "library"),
    [
        ("loaded", "onnxruntime", "onnxruntime"),
        ("run", "onnxruntime", "onnxruntime"),
        ("loaded", "openvino", "OpenVINO"),
    ],
)
def test_model_that_cannot_run_is_reported(
    when: str, engine: str, library: str, copy_export: CopyExport, effnet: Effnet
) -> None:
    path = copy_export("onnx")
    export_file.json_path(path).unlink()
    graph = onnx.load(path)
    conv = [node for node in graph.graph.node if node.op_type == "Conv"][3]
    conv.input[1] = "nothing" if when == "loaded" else graph.graph.initializer[0].name
    onnx.save(graph, path)
    done = effnet("predict", IMAGE, "--model", path, "--engine", engine)
    assert done.status == 2
    (first, second) = done.stderr.splitlines()
    assert f"{library} cannot run {str(path)!r}: the file is damaged" in first
    assert second == "Export it again."
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("target", "suffix", "model_suffix"),
    [("onnx", ".onnx.json", ".onnx"), ("openvino", ".bin", ".xml"),
     ("openvino", ".xml.json", ".xml")],
)  # fmt: skip
def test_error_for_part_of_an_export_names_the_model_file(
    target: TargetName, suffix: str, model_suffix: str, copy_export: CopyExport, effnet: Effnet
) -> None:
    path = copy_export(target)
    done = effnet("predict", IMAGE, "--model", path.with_suffix(suffix))
    assert done.status == 2
    assert f"Use --model {path.with_suffix(model_suffix)}" in done.stderr


@pytest.mark.parametrize("target", ["openvino", "litert", "executorch", "onnx"])
@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 99, b"<net", b"\x1c\0\0\0TFL3" + b"\xff" * 64]
)
def test_garbage_with_a_matching_json_is_refused(
    target: TargetName, content: bytes, exports: CopyExport, copy_export: CopyExport, effnet: Effnet
) -> None:
    if target == "executorch":  # any JSON will do: the program is garbage anyway
        path = copy_export("litert").rename(copy_export("onnx").with_name("lite0.pte"))
        metadata = json.loads(export_file.json_path(exports("litert")).read_text())
        metadata["files"] = {path.name: ""}
        export_file.json_path(path).write_text(json.dumps(metadata))
    else:
        path = copy_export(target)
    path.write_bytes(content)
    update_digests(path)
    done = effnet("predict", IMAGE, "--model", path)
    assert done.status == 2
    assert "Traceback" not in done.stderr
    assert path.name in done.stderr
    assert done.stdout == b""


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize("place", ["sample", "weights", "legacy"])
def test_program_with_pickles_is_rejected(
    place: str, copy_export: CopyExport, effnet: Effnet, tmp_path: Path
) -> None:
    path = copy_export("torch-export")
    changed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if place == "sample" and name.endswith(".pt"):
                content = pickle.dumps(Evil())
            if place == "weights" and name.endswith("model_weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
            if place == "legacy" and name.endswith("archive_format"):
                continue
            new.writestr(name, content)
    path.write_bytes(changed.getvalue())
    update_digests(path)
    assert_rejected(
        effnet("predict", IMAGE, "--model", path), "it contains pickles that could run code"
    )


def test_invalid_program_is_rejected(copy_export: CopyExport, effnet: Effnet) -> None:
    path = copy_export("torch-export")
    assert effnet("predict", IMAGE, "--model", path).status == 0
    path.write_bytes(b"garbage")
    update_digests(path)
    done = effnet("predict", IMAGE, "--model", path)
    assert_rejected(done, "cannot load", status=1)


def test_check_is_cached_by_content(copy_export: CopyExport, effnet: Effnet) -> None:
    """An ONNX file is checked again when its content changes."""
    path = copy_export("onnx")
    assert effnet("predict", IMAGE, "--model", path).status == 0
    graph = onnx.load(path)
    add_loop(graph)
    path.write_bytes(graph.SerializeToString())
    update_digests(path)
    assert_rejected(effnet("predict", IMAGE, "--model", path), "it uses the operator Loop")
