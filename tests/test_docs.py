"""The documentation is correct: commands run, tables and help are generated."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from mkdocs.exceptions import PluginError

import hooks
from docs_pages import README, SOURCES, docs_page
from effnet_cli import options
from effnet_cli.engines.registry import ENGINES
from effnet_cli.evaluate.metrics import METRICS
from effnet_cli.export.targets import TARGETS
from effnet_cli.models.listing import select_variants
from effnet_cli.models.variants import PUBLISHED, VARIANTS
from effnet_cli.options import ErrorKind, Format, ShowOptions
from effnet_cli.predict.formats import CSV_COLUMNS
from effnet_cli.system.fields import long_flag
from forked import serve_command
from helpers import ROOT
from training import make_classes

TEXT = "\n".join([README, *SOURCES.values()])
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
# Multi-line scripts; later ones use the files of earlier ones.
SCRIPTS = list(dict.fromkeys(re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)))
COMMANDS = list(
    dict.fromkeys(
        line for block in BLOCKS for line in block.splitlines() if re.match(r"(effnet|find) ", line)
    )
)
HELP_PAGES = re.findall(r"<!-- help: (.*?) -->", SOURCES["cli"])
COMMAND_NAMES = [
    "predict", "audit", "finetune", "evaluate", "embed", "search", "export", "bench", "variants",
    "doctor",
]  # fmt: skip
MAX_README_LINES = 200


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: ANN201
    """Run a line as written, in a folder with the sample images and an `effnet` command."""
    folder = tmp_path / "bin"
    folder.mkdir()
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    shutil.copytree(ROOT / "sample_images", tmp_path / "sample_images")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def run(line: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    with serve_command(folder / "effnet"):
        yield run


# --- commands and code ---------------------------------------------------------------------------


@pytest.mark.parametrize("line", COMMANDS)
def test_command_runs_as_written(line: str, shell) -> None:  # noqa: ANN001
    done = shell(line)
    if "# downloads" in line:
        assert done.returncode == 1  # the tests have no internet; the error says what to do
        assert "Cannot download" in done.stderr
    elif "# needs an NVIDIA GPU" in line and "No CUDA device" in done.stderr:
        assert done.returncode == 1
    elif "--precision bf16" in line and not has_bf16():
        assert done.returncode == 1
        assert "This processor does not support bf16. Use --precision fp32." in flatten(done.stderr)
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout or "--output" in line


def has_bf16() -> bool:
    from openvino import Core

    return "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def flatten(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader who runs all scripts in order."""
    folder = tmp_path_factory.mktemp("project")
    make_classes(folder / "dataset", ("red", "green"), images=6)
    shutil.copytree(ROOT / "sample_images", folder / "sample_images")
    shutil.copy(ROOT / "sample_images" / "cat.jpg", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_script_runs_as_written(script: str, shell, project: Path) -> None:  # noqa: ANN001
    done = shell(f"cd '{project}'\nset -e\n{script}")
    assert done.returncode == 0, done.stderr
    assert "--model" in script or "finetune" not in script


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) > 10
    assert len(SCRIPTS) >= 4


@pytest.mark.parametrize("text", [README, SOURCES["python"]], ids=["README", "python"])
def test_python_example_runs(text: str) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ok tiger cat 0.38")


# --- help and tables -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", HELP_PAGES)
def test_help_page_matches_the_command(command: str) -> None:
    documented = docs_page("cli").partition(f"Usage: effnet {command} ")[2].partition("```")[0]
    done = subprocess.run(
        [sys.executable, "-m", "effnet_cli", *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    text = done.stdout.removeprefix(f"Usage: effnet {command} ")
    assert [line.rstrip() for line in text.splitlines()] == documented.splitlines()


def test_every_command_has_its_help() -> None:
    assert set(COMMAND_NAMES) <= set(HELP_PAGES)


@pytest.mark.parametrize(
    "name",
    [*VARIANTS, *ENGINES, *TARGETS, *ErrorKind.__args__, *Format.__args__, *CSV_COLUMNS],  # type: ignore[attr-defined]
)
def test_every_registered_name_is_documented(name: str) -> None:
    assert f"`{name}`" in README + "".join(map(docs_page, SOURCES))


@pytest.mark.parametrize("name", ["index", "models"])
def test_variants_table_matches_the_registry(name: str) -> None:
    for row in PUBLISHED if name == "index" else select_variants(ShowOptions()):
        cells = re.search(rf"^\| `{row.name}`.*$", docs_page(name), re.MULTILINE)
        assert cells is not None
        line = cells.group()
        assert f"| {row.preprocessing.crop_px} |" in line
        assert f"| {row.architecture.parameters / 1e6:.1f} M |" in line
        assert f"| {row.giga_multiply_adds:.2f} G |" in line
        assert f"| {row.top1:.1f} |" in line


@pytest.mark.parametrize(
    ("marker", "texts"),
    [
        ("options: predict", ["`--top-k`", "| 5 |", "**Engine**", "`onnxruntime`", "`INPUTS`"]),
        ("options: weights pull", ["`VARIANTS`", "| required |", "`--offline`"]),
        ("help: bench", ["```text\nUsage: effnet bench [OPTIONS]", "--against NAMES"]),
        ("fields: ImageOptions", ["| `views` | `int` | `1` |", "`'crop'` or `'pad'`"]),
        ("variants", ["| `lite0` (default) | 224 |", "| `b7` |"]),
        ("timm", ["| `b0.ns` | `tf_efficientnet_b0.ns_jft_in1k` | 224 | 78.7 | jft | 20 MB |"]),
        ("excluded", ["| `gc_efficientnet*` | its blocks have global context"]),
        ("engines", ["| `openvino` | cpu: fp32, bf16, fp16 |", "`.onnx`"]),
        ("targets", ["[`litert`](export/litert.md)", "| fp32, fp16, int8 |"]),
        ("metrics", ["| `macro_f1` | Macro F1 | yes |", "| `ece` |"]),
        ("error kinds", ["| `not_an_image` | HTML, PDF"]),
        ("exit statuses", ["| 0 | Success. |", "| 3 | A check failed", "| 143 |"]),
        ("readme", ["# effnet\n", "](predict.md)", "](samples.md)"]),
        ("file: sample_images/README.md", ["# Sample"]),
    ],
)
def test_marker_is_replaced_by_generated_text(marker: str, texts: list[str]) -> None:
    filled = hooks.on_page_markdown(f"before\n\n<!-- {marker} -->\n\nafter", page=None)
    assert filled.startswith("before\n\n")
    assert filled.endswith("\n\nafter")
    assert f"<!-- {marker}" not in filled
    for text in texts:
        assert text in filled


def test_every_marker_is_tested() -> None:
    tested = {
        mark.args[1][index][0].partition(":")[0]
        for mark in test_marker_is_replaced_by_generated_text.pytestmark  # type: ignore[attr-defined]
        for index in range(len(mark.args[1]))
    }
    assert tested == hooks.MARKERS.keys()


@pytest.mark.parametrize(
    "marker",
    ["nothing", "options: nothing", "fields: Nothing", "file: nothing", "options", "variants: b0"],
)
def test_unknown_marker_fails_the_build(marker: str) -> None:
    with pytest.raises(PluginError, match=f"Invalid marker '<!-- {marker} -->'"):
        hooks.fill(f"<!-- {marker} -->")


@pytest.mark.parametrize("command", ["predict", "audit", "finetune", "evaluate", "export", "bench"])
def test_every_option_is_in_the_table_of_its_command(command: str) -> None:
    task = getattr(options, f"{command.capitalize()}Task")
    flags = [long_flag(field) for field in fields(task) if field.metadata.get("flags")]
    table = hooks.fill(f"<!-- options: {command} -->")
    for flag in [*flags, "--quiet"]:
        assert f"`{flag}`" in table
    assert table in docs_page(command)


def test_every_error_kind_and_metric_is_explained() -> None:
    assert hooks.ERROR_KINDS.keys() == set(ErrorKind.__args__)  # type: ignore[attr-defined]
    for metric in METRICS:
        assert f"| `{metric.name}` | {metric.label} |" in docs_page("evaluate")


# --- the README and the sample images ------------------------------------------------------------


def test_readme_is_short_and_its_links_exist() -> None:
    assert len(README.splitlines()) <= MAX_README_LINES
    links = re.findall(r"\]\(([^)#]+)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_sample_images_have_the_documented_predictions() -> None:
    text = (ROOT / "sample_images" / "README.md").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "effnet_cli", "predict", "sample_images", "-f", "jsonl", "-k", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) >= 8
    for row in rows:
        name, (best,) = Path(row["path"]).name, row["predictions"]
        line = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        assert best["label"] in line
        assert f"{best['probability'] * 100:.1f} %" in line
