"""Benchmarks of real models: timings, failures, recommendation, page."""

import csv
import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from docs_pages import docs_page
from effnet_cli.bench import formats, prepare, rounds, start, table, worker
from effnet_cli.bench.models import BenchModel
from effnet_cli.bench.page import bench_page, chart_points
from effnet_cli.bench.records import SLOWER, BenchResult, Change, Skipped, Timing
from effnet_cli.bench.run import bench
from effnet_cli.bench.start import Case
from effnet_cli.bench.statistics import MIN_TURNS, Turn
from effnet_cli.bench.worker import WarmUp
from effnet_cli.engines import registry
from effnet_cli.engines.base import DeviceClock
from effnet_cli.engines.registry import EnginePlan
from effnet_cli.models.variants import find_variant
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import BenchTask, ModelOptions
from effnet_cli.output.charts import latency_chart
from effnet_cli.output.terminal import render
from effnet_cli.system import machine
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.reporter import SILENT
from helpers import SAMPLES, RecordingReporter
from training import CommandResult

pytestmark = pytest.mark.usefixtures("one_core")

Effnet = Callable[..., CommandResult]


@pytest.fixture(scope="module", autouse=True)
def short_measurements() -> Iterator[None]:
    """Shorten measurements: no test here depends on the exact timings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(prepare.PRODUCT_PX, "cpu", 13)
        patch.setattr(machine, "COPY_MB", 16)
        patch.setattr(rounds, "TURN_SECONDS", 0.03)
        patch.setattr("effnet_cli.bench.start.MAX_CALL_SECONDS", 0.3)
        patch.setattr(worker, "WARM_UP_SECONDS", 0.1)
        yield


@pytest.fixture(scope="module")
def result(caches: None, tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    """A short benchmark of real weights, seeded weights and a torchvision classifier."""
    reporter = RecordingReporter()
    task = BenchTask(("lite0", "b0"), against=("resnet18",), engines=("onnxruntime",), seconds=0.5)
    result = bench(task, reporter)
    assert "Measuring lite0, b0, resnet18" in reporter.text
    assert reporter.steps[-1][1] == reporter.steps[-1][2]
    return result


def test_timings_describe_what_was_measured(result: BenchResult) -> None:
    rows = {(t.variant, t.batch_size): t for t in result.timings}
    assert {("lite0", 1), ("b0", 1), ("resnet18", 1)} <= rows.keys()
    assert [rows[name, 1].weights for name in ("lite0", "b0", "resnet18")] == [
        "pretrained", "seeded", "seeded",
    ]  # fmt: skip
    for timing in result.timings:
        assert 0 < timing.p5_ms <= timing.p50_ms <= timing.p90_ms <= timing.p99_ms
        assert timing.turns >= MIN_TURNS
        assert timing.images_per_s > 0
        assert timing.cold_ms > timing.load_ms > 0
        assert timing.peak_memory_mb is not None
        assert 40 < timing.peak_memory_mb < 600  # onnxruntime only; with torch it would be more
        assert timing.share_of_peak is not None
        assert 0 < timing.share_of_peak < 1.5
        assert timing.share_of_bandwidth is not None
        assert timing.share_of_bandwidth > 0
    assert rows["b0", 1].giga_multiply_adds == pytest.approx(0.386, rel=0.01)
    assert rows["resnet18", 1].giga_multiply_adds == pytest.approx(1.814, rel=0.01)
    assert rows["resnet18", 1].top1 == pytest.approx(69.758)
    assert set(result.limits) == {"onnxruntime fp32", "copy"}
    assert result.machine["cores"] == 1
    assert not result.skipped


def test_json_has_the_documented_keys(result: BenchResult) -> None:
    content = json.loads(json.dumps(formats.as_json(result), allow_nan=False))
    assert content["schema"] == 1
    for name in (*content, *content["machine"], *content["results"][0]):
        assert f"`{name}`" in docs_page("bench")
    keys = {
        "variant", "engine", "device", "precision", "batch_size", "mode", "p5_ms", "p50_ms",
        "p90_ms", "p99_ms", "images_per_s", "peak_memory_mb", "share_of_peak", "verdict",
    }  # fmt: skip
    assert keys <= content["results"][0].keys()


def test_csv_has_the_same_figures(result: BenchResult) -> None:
    lines = list(csv.DictReader(io.StringIO("".join(formats.csv_lines(result)))))
    rows = formats.as_json(result)["results"]
    assert [float(line["p50_ms"]) for line in lines] == [row["p50_ms"] for row in rows]
    assert lines[0]["decode_ms"] == ""


def test_command_shows_recommendations_and_comparison(
    result: BenchResult, tmp_path: Path, effnet: Effnet
) -> None:
    old, page = tmp_path / "old.json", tmp_path / "bench.html"
    command = ("bench", "--variant", "lite0", "--engine", "onnxruntime", "--batch-size", "1")
    content = formats.as_json(result)
    for factor, status, verdict in ((0.1, 3, "slower"), (10, 0, "faster")):
        for row in content["results"]:
            p50_ms = factor * result.timings[0].p50_ms
            row |= {"p50_ms": p50_ms, "p50_low_ms": p50_ms, "p50_high_ms": p50_ms}
        old.write_text(json.dumps(content))
        done = effnet(*command, "--seconds", "0.2", "--compare", old, "--html", page)
        text = done.stdout.decode()
        assert done.status == status
        assert text.startswith("Lowest latency: lite0 on onnxruntime, ")
        assert f" {verdict}\n" in text
        assert "Limit onnxruntime fp32: " in done.stderr
    assert f">{verdict}</td>" in page.read_text(encoding="utf-8")


def test_best_batch_has_the_highest_throughput() -> None:
    class FakeWorker:
        def warm_up(self, size: int) -> WarmUp:
            if size > 16:
                raise EffnetError("Out of memory.", "Use a smaller batch.")
            return WarmUp({1: 10, 2: 12, 4: 20, 8: 39, 16: 60}[size], None, None)

    ((size, warm_up),) = start.best_batch(FakeWorker(), "cpu", 10.0)  # type: ignore[arg-type]
    assert (size, warm_up.call_ms) == (16, 60)
    assert list(start.best_batch(FakeWorker(), "cpu", 3.0)) == []  # type: ignore[arg-type]


def test_variant_that_exceeds_the_time_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = tuple(map(find_variant, ("lite0", "b7")))
    monkeypatch.setattr("effnet_cli.bench.start.PUBLISHED", rows)
    result = bench(BenchTask(engines=("onnxruntime",), seconds=1, batch_sizes=(1,)))
    assert [timing.variant for timing in result.timings] == ["lite0"]
    (skipped,) = result.skipped
    assert (skipped.variant, skipped.is_failure) == ("b7", False)
    assert "--seconds" in skipped.reason


def test_train_and_end_to_end_modes(effnet: Effnet, tmp_path: Path) -> None:
    done = effnet(
        "bench", "-V", "lite0", "--mode", "train", "--batch-size", "2", "--seconds", ".1", "-f",
        "json",
    )  # fmt: skip
    (row,) = json.loads(done.stdout)["results"]
    assert (row["mode"], row["engine"], row["batch_size"]) == ("train", "torch", 2)
    assert row["p50_ms"] > 20
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    for name in ("cat.jpg", "coffee.jpg"):
        (tmp_path / name).write_bytes((SAMPLES / name).read_bytes())
    done = effnet(
        "bench", "-V", "lite0", "--mode", "end-to-end", "--images", tmp_path, "--seconds", ".1",
        "-e", "onnxruntime", "-f", "json",
    )  # fmt: skip
    (row,) = json.loads(done.stdout)["results"]
    parts = [row[f"{name}_ms"] for name in ("decode", "resize", "model")]
    assert all(part > 0 for part in parts)
    assert sum(parts) == pytest.approx(row["p50_ms"], rel=0.3)
    assert row["share_of_peak"] is None
    assert done.status == 0


def test_model_file_and_export_are_measured(effnet: Effnet, tmp_path: Path) -> None:
    path = tmp_path / "<b>&.onnx"
    assert effnet("export", "--to", "onnx", "--batch", "2", "-o", path).status == 0
    page = tmp_path / "page.html"
    done = effnet(
        "bench", "--model", path, "-e", "onnxruntime", "--seconds", ".1", "-f", "csv",
        "--html", page,
    )  # fmt: skip
    (row,) = csv.DictReader(io.StringIO(done.stdout.decode()))
    assert (row["variant"], row["weights"], row["batch_size"]) == (path.name, "yours", "2")
    done = effnet("bench", "--model", path, "--precision", "bf16")
    assert done.status == 2
    assert "was exported as fp32 and cannot run as bf16." in done.stderr
    text = page.read_text(encoding="utf-8")
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;.onnx" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "b9"], "Unknown variant 'b9'"),
        (["--engine", "tensorrt"], "Unknown engine 'tensorrt'"),
        (["--precision", "fp8"], "Unknown precision 'fp8'"),
        (["--batch-size", "0"], "Invalid --batch-size '0'"),
        (["--against", "resnet51", "-V", "lite0"], "torchvision has no classifier 'resnet51'"),
        (["--model", "nothing.onnx"], "No such file: 'nothing.onnx'"),
        (["--mode", "train", "--engine", "openvino"], "on the torch engine"),
        (["--images", "."], "--images requires --mode end-to-end"),
        (["--mode", "end-to-end", "--batch-size", "2"], "one image at a time"),
        (
            ["--engine", "onnxruntime", "--precision", "bf16"],
            "does not support model files in bf16",
        ),
        (["-V", "lite0", "--precision", "int8"], "Unknown precision 'int8'"),
        (["-V", "lite0", "--precision", "fp32,int8", "-e", "openvino"], "Unknown precision 'int8'"),
        (
            ["--precision", "fp16", "--mode", "train"],
            "torch does not support model files in fp16 on cpu",
        ),
        (["--mode", "end-to-end", "--images", "nosuch"], "No such folder: 'nosuch'."),
        (["--mode", "end-to-end", "--images", "benchmarks"], "No images found in 'benchmarks'"),
        (["--mode", "end-to-end", "--images", "README.md"], "None of the 1 images in 'README.md'"),
        (["--device", "cuda:x"], "Unknown device 'cuda:x'"),
        (["--compare", "README.md"], "is not an `effnet bench` result"),
        (["--compare", "nothing.json"], "Cannot read"),
        (["-V", "lite0", "--html", "."], "--html '.' is a folder"),
        (["--html", "-"], "--html requires a file path"),
        (["--compare", "README.md", "--html", "README.md"], "'README.md' is an input"),
    ],
)
def test_invalid_usage_is_refused(arguments: list[str], message: str, effnet: Effnet) -> None:
    done = effnet("bench", *arguments)
    assert done.status == 2
    assert message in done.stderr
    assert done.stdout == b""
    assert len(done.stderr.strip().splitlines()) == 2


def test_missing_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_is_installed", lambda name: name == "torch")
    task = BenchTask(device="cpu")
    assert list(start.engine_plans(task, "tensors")) == [EnginePlan("torch", "cpu", "fp32")]
    with pytest.raises(
        EffnetError, match=".tflite files in fp32 on cpu requires the engine litert"
    ):
        list(start.engine_plans(task, "litert"))
    with pytest.raises(
        EffnetError, match="fp16 on cpu requires the engine openvino, which is not installed"
    ):
        bench(BenchTask(precisions=("fp16",)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", 'it has no "schema"'),
        ("{}", 'it has no "schema"'),
        ("3", 'it has no "schema"'),
        ("{,", "it is not JSON"),
        ("\xff", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ('{"schema": 2}', "its schema is 2, not 1"),
        ('{"schema": null}', "its schema is null, not 1"),
        ('{"schema": 1}', 'it lacks "results" or "limits"'),
        ('{"schema": 1, "results": 7, "limits": {}}', 'it lacks "results" or "limits"'),
        ('{"schema": 1, "results": [[]], "limits": {}}', "a row lacks one of variant, "),
        ('{"schema": 1, "results": [{}], "limits": {}}', "a row lacks one of variant, "),
        ('{"schema": 1, "results": [], "limits": {"copy": 0}}', "a limit is not positive"),
        ('{"schema": 1, "results": [], "limits": {"copy": "1"}}', "a limit is not positive"),
    ],
)
def test_file_that_is_not_a_result_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        formats.load_result(path)
    assert caught.value.message.startswith(
        f"{str(path)!r} is not an `effnet bench` result: {message}"
    )


@pytest.mark.parametrize("value", [0, -1, "1", None, float("nan"), float("inf")])
def test_result_with_an_invalid_time_is_refused(
    value: object, result: BenchResult, tmp_path: Path
) -> None:
    path = tmp_path / "old.json"
    content = formats.as_json(result)
    path.write_text(json.dumps(content))
    assert formats.load_result(path) == json.loads(path.read_text())
    content["results"][-1]["p50_low_ms"] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="has no positive time in one of p50_ms"):
        formats.load_result(path)


# --- failures ----------------------------------------------------------------------------------


@pytest.mark.linux
@pytest.mark.parametrize("name", ["lite0", "matrix product"])
def test_hang_between_turns_does_not_stop_the_others(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_turn = Case.turn

    def hang(case: Case, seconds: float) -> Turn:
        process = case.worker._process
        if case.model.name == name and process.is_alive():
            assert process.pid
            os.kill(process.pid, signal.SIGSTOP)
            monkeypatch.setattr(worker, "SILENCE_SECONDS", 3)
            monkeypatch.setattr(worker, "SILENT_CALLS", 0)
        return take_turn(case, seconds)

    monkeypatch.setattr(Case, "turn", hang)
    task = BenchTask(("lite0", "b0"), engines=("onnxruntime",), seconds=0.1, batch_sizes=(1, 2))
    reporter = RecordingReporter()
    result = bench(task, reporter)
    (skipped,) = result.skipped
    assert (skipped.variant, skipped.engine, skipped.is_failure) == (name, "onnxruntime", True)
    assert "did not respond for" in skipped.reason
    assert f"Skipping {name} on onnxruntime: " in reporter.text
    names = {timing.variant for timing in result.timings}
    assert names == {"lite0", "b0"} - {name}
    has_peak = name == "lite0"
    assert all((timing.share_of_peak is not None) == has_peak for timing in result.timings)


def test_failure_of_all_cases_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(case: Case, seconds: float) -> Turn:
        raise EffnetError("The worker crashed.", "Try again.")

    monkeypatch.setattr(Case, "turn", fail)
    task = BenchTask(("lite0",), engines=("onnxruntime",), seconds=0.1, batch_sizes=(1,))
    with pytest.raises(
        EffnetError, match=r"Nothing could be measured: The worker crashed. Try again."
    ):
        bench(task)


def test_failed_model_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_variant = prepare.prepare_variant

    def break_lite0(name: str, folder: Path, reporter: RecordingReporter) -> BenchModel:
        model = prepare_variant(name, folder, reporter)
        return replace(model, options=None, graph=None) if name == "lite0" else model

    monkeypatch.setattr(prepare, "prepare_variant", break_lite0)
    task = BenchTask(("lite0", "b0"), engines=("onnxruntime",), seconds=0.1, batch_sizes=(1,))
    result = bench(task)
    assert [timing.variant for timing in result.timings] == ["b0"]
    assert [(one.variant, one.is_failure) for one in result.skipped] == [("lite0", True)]


# --- recommendation and page ------------------------------------------------------------------


@pytest.fixture(scope="module")
def row(result: BenchResult) -> Timing:
    return result.timings[0]


def make_timing(
    row: Timing, variant: str, engine: str, ms: float, top1: float | None, batch_size: int = 1
) -> Timing:
    return replace(
        row, variant=variant, engine=engine, p50_ms=ms, images_per_s=1000 * batch_size / ms,
        top1=top1, batch_size=batch_size, weights="seeded",
    )  # fmt: skip


def test_recommendation_names_the_fastest_and_the_most_accurate(
    result: BenchResult, row: Timing
) -> None:
    rows = (
        make_timing(row, "lite0", "openvino", 4.0, 75.1),
        make_timing(row, "lite0", "torch", 9.0, 75.1),
        make_timing(row, "b1", "onnxruntime", 10.0, 79.8),
        make_timing(row, "b1", "openvino", 11.0, 79.8),
        make_timing(row, "b4", "openvino", 60.0, 83.4),
        make_timing(row, "lite0", "torch", 20.0, 75.1, batch_size=8),
        make_timing(row, "resnet18", "openvino", 1.0, 99.0),  # from torchvision, never recommended
    )
    assert list(table.recommendation(replace(result, timings=rows))) == [
        "Lowest latency: lite0 on openvino, 4.0 ms per image.",
        "Highest throughput: lite0 on torch, batch size 8, 400 images/s.",
        "Best trade-off: b1 on onnxruntime, 79.8 % top-1, 10.0 ms (2.5 times the fastest).",
        "Most accurate: b4 on openvino, 83.4 % top-1, 60.0 ms.",
    ]
    points = chart_points(replace(result, timings=rows))
    assert points == [
        ("lite0", 4.0, 75.1), ("b1", 10.0, 79.8), ("b4", 60.0, 83.4), ("resnet18", 1.0, 99.0),
    ]  # fmt: skip
    assert all(f">{name}</text>" in str(latency_chart(points)) for name, _, _ in points)


def test_terminal_table_fits_80_columns(result: BenchResult) -> None:
    lines = "".join(render(table.blocks(result, None))).splitlines()
    start = next(number for number, line in enumerate(lines) if "images/s" in line and "ms" in line)
    assert len(lines[start:]) > len(result.timings)
    assert all(len(line) <= 80 for line in lines[start : start + 2 + len(result.timings)])


def test_page_is_self_contained_and_complete(result: BenchResult, row: Timing) -> None:
    hostile = "<script>alert(1)</script>$x$\x1b[31m"
    rows = (replace(row, variant=hostile, top1=1.0), *result.timings)
    change = Change(hostile, "torch", "cpu", "fp32", 1, "inference", 1, 2, 2, (1.9, 2.1), SLOWER)
    skipped = (Skipped(hostile, "torch", hostile),)
    page = bench_page(replace(result, timings=rows, skipped=skipped), [change])
    assert "<script" not in page
    assert "\x1b" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 4
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page
    assert "src=" not in page
    for one in result.timings:
        assert f"{one.p99_ms:.2f}" in page
    assert "<svg" in page
    # text cells must wrap, for 15 columns to fit a laptop screen; on phones the table scrolls
    style = page.partition("</style>")[0]
    assert style.rindex("td.text, td:first-child { white-space: normal; }") > style.index("nowrap")
    assert ".scroll { overflow-x: auto;" in style


def test_run_without_a_reporter_is_silent(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    bench(BenchTask(("lite0",), engines=("openvino",), seconds=0.1, batch_sizes=(1,)), SILENT)
    captured = capfdbinary.readouterr()
    assert (captured.out, captured.err) == (b"", b"")


# --- a GPU ----------------------------------------------------------------------------------------


@pytest.mark.cuda
def test_gpu_is_timed_on_the_device() -> None:
    model = resolve_model(ModelOptions("lite0"))
    engine = EnginePlan("torch", "cuda", "fp16").load(model)
    crops = np.zeros((4, 224, 224, 3), np.uint8)
    assert isinstance(engine, DeviceClock)
    times = engine.device_times_ms(crops, 20)
    assert times is not None
    assert len(times) == 20
    assert 0 < min(times) <= max(times) < 1000
    assert engine(crops).scores.shape == (4, 1000)
    task = BenchTask(
        ("lite0",), device="cuda", engines=("torch",), precisions=("fp32", "fp16"), seconds=1
    )
    result = bench(task)
    assert {timing.precision for timing in result.timings} == {"fp32", "fp16"}
    for timing in result.timings:
        assert timing.device_memory_mb is not None
        assert timing.device_memory_mb > 10
        assert timing.share_of_peak is not None
    assert result.machine["gpu"] is not None
