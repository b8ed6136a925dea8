"""Measurements: the figures from known delays, the runs on real networks, the answer, the page."""

import csv
import io
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from effnet_cli.bench import formats, prepare, rounds, start, table, worker
from effnet_cli.bench.page import bench_page, chart_points
from effnet_cli.bench.records import (
    FASTER,
    SLOWER,
    UNCHANGED,
    BenchResult,
    Change,
    Median,
    Skipped,
    Timing,
)
from effnet_cli.bench.rounds import measure_rounds
from effnet_cli.bench.run import bench
from effnet_cli.bench.start import Case
from effnet_cli.bench.statistics import MIN_TURNS, Turn, compare_medians, summarize
from effnet_cli.bench.worker import EngineCaller, WarmUp, Worker, WorkerRequest
from effnet_cli.engines import registry
from effnet_cli.engines.base import Crops, DeviceClock, Scores
from effnet_cli.engines.registry import EnginePlan
from effnet_cli.models import build
from effnet_cli.models.variants import find_variant
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import BenchTask, ModelOptions
from effnet_cli.system import machine
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.reporter import SILENT
from helpers import ROOT, SAMPLES, RecordingReporter
from training import Done

pytestmark = pytest.mark.usefixtures("one_core")

Effnet = Callable[..., Done]


# --- figures from known delays ------------------------------------------------------------------


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.ms = 0.0

    def perf_counter_ns(self) -> int:
        return round(self.ms * 1e6)

    def monotonic(self) -> float:
        return self.ms / 1000


@dataclass
class Slow:
    """A fake engine: each call takes the next of its delays, again and again."""

    clock: Clock
    delays_ms: Sequence[float]
    calls: int = 0
    sizes: list[int] = field(default_factory=list)
    precision: str = "fp32"
    scores_are: str = "logits"

    def __call__(self, crops: Crops) -> Scores:
        self.clock.ms += self.delays_ms[self.calls % len(self.delays_ms)]
        self.calls += 1
        self.sizes.append(len(crops))
        return np.zeros((len(crops), 3), np.float32)


@dataclass
class Fake:
    """A candidate around a fake engine."""

    engine: Slow
    order: list["Fake"]
    batch_size: int = 1

    def turn(self, seconds: float) -> Turn:
        self.order.append(self)
        caller = EngineCaller(self.engine, (4, 4, 3))  # type: ignore[arg-type]
        return worker.take_turn(caller, self.batch_size, seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(worker, "time", clock)
    return clock


def test_percentiles_and_throughput_are_those_of_the_delays(clock: Clock) -> None:
    delays = [float(ms) for ms in range(1, 101)]
    candidate = Fake(Slow(clock, delays), [], batch_size=4)
    (turns,) = measure_rounds([candidate], 10.0, clock=clock.monotonic)
    found = summarize(turns)
    kept = [ms for turn in turns for ms in turn.times_ms]
    assert set(kept) <= set(delays)
    assert len(kept) == found.calls > 100
    for value, percent in (
        (found.p5_ms, 5), (found.p50_ms, 50), (found.p90_ms, 90), (found.p99_ms, 99)
    ):  # fmt: skip
        assert value == pytest.approx(np.percentile(kept, percent))
    assert found.images_per_s == pytest.approx(4 * len(kept) / (sum(kept) / 1000))
    assert found.p50_low_ms <= found.p50_ms <= found.p50_high_ms
    assert set(candidate.engine.sizes) == {4}
    assert found.verdict.startswith("unstable (spread ")


def test_first_call_of_a_turn_counts_only_where_a_turn_is_one_call(clock: Clock) -> None:
    cold = Fake(Slow(clock, [50.0] + [2.0] * 74), [])  # 50 + 50 * 2 ms: a turn each
    assert 50.0 not in cold.turn(0.15).times_ms
    long = Fake(Slow(clock, [700.0]), [])
    assert long.turn(0.15).times_ms == (700.0,)


def test_same_delays_are_stable_and_drifting_ones_are_not(clock: Clock) -> None:
    steady, drifting = Fake(Slow(clock, [5.0]), []), Fake(Slow(clock, [5.0]), [])
    turns = [steady.turn(0.15) for _ in range(8)]
    assert summarize(turns).verdict == "stable"
    assert summarize(turns).median == (5.0, 5.0, 5.0)
    assert summarize(turns[: MIN_TURNS - 1]).verdict == f"unstable (only {MIN_TURNS - 1} turns)"
    drift = []
    for number in range(8):
        drifting.engine.delays_ms = [5.0 + number / 10]
        drift.append(drifting.turn(0.15))
    assert summarize(drift).spread == pytest.approx((5.63 - 5.07) / 5.35, abs=0.01)
    assert summarize(drift).verdict == "unstable (spread 11%)"


def test_candidates_take_turns_in_every_round(clock: Clock) -> None:
    order: list[Fake] = []
    fakes = [Fake(Slow(clock, [ms]), order) for ms in (1.0, 2.0, 50.0)]
    heard: list[float] = []
    turns = measure_rounds(fakes, 20.0, on_turn=heard.append, clock=clock.monotonic)
    assert [len(each) for each in turns] == [len(order) // 3] * 3
    rounds = [tuple(map(id, order[i : i + 3])) for i in range(0, len(order), 3)]
    assert all(len(set(one)) == 3 for one in rounds)
    assert len(set(rounds)) > 3  # in changing orders: who follows whom makes no difference
    assert heard == sorted(heard)
    assert heard[-4] < 20.0 <= heard[-1]


def test_there_are_enough_rounds_for_a_verdict(clock: Clock) -> None:
    (turns,) = measure_rounds([Fake(Slow(clock, [9000.0]), [])], 1.0, clock=clock.monotonic)
    assert len(turns) == MIN_TURNS


@given(
    st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.floats(1.0, 1.5), st.floats(1.0, 1.5),
    st.floats(0.01, 0.5),
)  # fmt: skip
def test_change_is_the_same_seen_from_either_side(
    old: float, new: float, wide: float, wider: float, tolerance: float
) -> None:
    before, after = Median(old, old / wide, old * wide), Median(new, new / wider, new * wider)
    ratio, (low, high), verdict = compare_medians(before, after, tolerance)
    back, (back_low, back_high), reverse = compare_medians(after, before, tolerance)
    assert ratio == pytest.approx(new / old)
    assert low <= ratio * (1 + 1e-9)
    assert ratio <= high * (1 + 1e-9)
    assert (back, back_low, back_high) == pytest.approx((1 / ratio, 1 / high, 1 / low))
    if abs(ratio - 1 - tolerance) > 1e-9 and abs(1 / ratio - 1 - tolerance) > 1e-9:
        assert {verdict: reverse}[verdict] == {
            FASTER: SLOWER,
            SLOWER: FASTER,
            UNCHANGED: UNCHANGED,
        }[verdict]


def test_change_needs_certainty_and_size() -> None:
    sure, unsure = Median(100, 99, 101), Median(100, 80, 125)
    assert compare_medians(sure, Median(120, 119, 121), 0.05)[2] == SLOWER
    assert compare_medians(sure, Median(104, 103.5, 104.5), 0.05)[2] == UNCHANGED  # tolerated
    assert compare_medians(unsure, Median(120, 96, 150), 0.05)[2] == UNCHANGED  # uncertain
    assert compare_medians(sure, Median(80, 79, 81), 0.05)[2] == FASTER


# --- real runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """Less of everything that only makes figures better."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(prepare.PRODUCT_PX, "cpu", 13)
        patch.setattr(machine, "COPY_MB", 16)
        patch.setattr(rounds, "TURN_SECONDS", 0.03)
        patch.setattr("effnet_cli.bench.start.MAX_CALL_SECONDS", 0.3)
        patch.setattr(worker, "WARM_UP_SECONDS", 0.1)
        yield


@pytest.fixture(scope="module")
def result(caches: None, tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    """A short run with real weights, seeded ones and one of torchvision's classifiers."""
    heard = RecordingReporter()
    task = BenchTask(("lite0", "b0"), against=("resnet18",), engines=("onnxruntime",), seconds=0.5)
    result = bench(task, heard)
    assert "Measuring lite0, b0, resnet18" in heard.text
    assert heard.steps[-1][1] == heard.steps[-1][2]
    return result


def test_rows_say_what_was_measured(result: BenchResult) -> None:
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
        assert 40 < timing.peak_memory_mb < 600  # of onnxruntime alone: torch has more
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
    page = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    for name in (*content, *content["machine"], *content["results"][0]):
        assert f"`{name}`" in page
    wanted = {
        "variant", "engine", "device", "precision", "batch_size", "mode", "p5_ms", "p50_ms",
        "p90_ms", "p99_ms", "images_per_s", "peak_memory_mb", "share_of_peak", "verdict",
    }  # fmt: skip
    assert wanted <= content["results"][0].keys()


def test_csv_has_the_same_figures(result: BenchResult) -> None:
    lines = list(csv.DictReader(io.StringIO("".join(formats.csv_lines(result)))))
    rows = formats.as_json(result)["results"]
    assert [float(line["p50_ms"]) for line in lines] == [row["p50_ms"] for row in rows]
    assert lines[0]["decode_ms"] == ""


def test_command_answers_and_compares(result: BenchResult, tmp_path: Path, effnet: Effnet) -> None:
    old, page = tmp_path / "old.json", tmp_path / "bench.html"
    words = ("bench", "--variant", "lite0", "--engine", "onnxruntime", "--batch-size", "1")
    content = formats.as_json(result)
    for factor, status, verdict in ((0.1, 3, "slower"), (10, 0, "faster")):
        for row in content["results"]:
            p50_ms = factor * result.timings[0].p50_ms
            row |= {"p50_ms": p50_ms, "p50_low_ms": p50_ms, "p50_high_ms": p50_ms}
        old.write_text(json.dumps(content))
        done = effnet(*words, "--seconds", "0.2", "--compare", old, "--html", page)
        text = done.stdout.decode()
        assert done.status == status
        assert text.startswith("Lowest latency: lite0 on onnxruntime, ")
        assert f" {verdict}\n" in text
        assert "Limit onnxruntime fp32: " in done.stderr
    assert f">{verdict}</td>" in page.read_text(encoding="utf-8")


def test_best_batch_is_the_one_with_the_highest_throughput() -> None:
    class Warming:
        def warm_up(self, size: int) -> WarmUp:
            if size > 16:
                raise EffnetError("There is no memory.", "Use less.")
            return WarmUp({1: 10, 2: 12, 4: 20, 8: 39, 16: 60}[size], None, None)

    ((size, warm),) = start.best_batch(Warming(), "cpu", 10.0)  # type: ignore[arg-type]
    assert (size, warm.call_ms) == (16, 60)
    assert list(start.best_batch(Warming(), "cpu", 3.0)) == []  # type: ignore[arg-type]


def test_variant_that_does_not_fit_the_time_is_skipped_with_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "effnet_cli.bench.start.VARIANTS", {n: find_variant(n) for n in ("lite0", "b7")}
    )
    result = bench(BenchTask(engines=("onnxruntime",), seconds=1, batch_sizes=(1,)))
    assert [timing.variant for timing in result.timings] == ["lite0"]
    (skipped,) = result.skipped
    assert (skipped.variant, skipped.is_failure) == ("b7", False)
    assert "--seconds" in skipped.reason


def test_training_step_and_whole_way(effnet: Effnet, tmp_path: Path) -> None:
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
    assert "was exported in fp32 and does not run in bf16." in done.stderr
    text = page.read_text(encoding="utf-8")
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;.onnx" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--variant", "b9"], "Unknown variant 'b9'"),
        (["--engine", "tensorrt"], "Unknown engine 'tensorrt'"),
        (["--precision", "fp8"], "Unknown precision 'fp8'"),
        (["--batch-size", "0"], "Invalid --batch-size '0'"),
        (["--against", "resnet51", "-V", "lite0"], "torchvision has no classifier 'resnet51'"),
        (["--model", "nothing.onnx"], "No such file: 'nothing.onnx'"),
        (["--mode", "train", "--engine", "openvino"], "runs on torch"),
        (["--images", "."], "--images needs --mode end-to-end"),
        (["--mode", "end-to-end", "--batch-size", "2"], "one image at a time"),
        (["--engine", "onnxruntime", "--precision", "bf16"], "does not run model files in bf16"),
        (["-V", "lite0", "--precision", "int8"], "Unknown precision 'int8'"),
        (["-V", "lite0", "--precision", "fp32,int8", "-e", "openvino"], "Unknown precision 'int8'"),
        (
            ["--precision", "fp16", "--mode", "train"],
            "torch does not run model files in fp16 on cpu",
        ),
        (["--mode", "end-to-end", "--images", "nosuch"], "No such folder: 'nosuch'."),
        (["--mode", "end-to-end", "--images", "benchmarks"], "No images found in 'benchmarks'"),
        (["--mode", "end-to-end", "--images", "README.md"], "None of the 1 images in 'README.md'"),
        (["--device", "cuda:x"], "Unknown device 'cuda:x'"),
        (["--compare", "README.md"], "is not a result of `effnet bench`"),
        (["--compare", "nothing.json"], "Cannot read"),
        (["-V", "lite0", "--html", "."], "--html '.' is a folder"),
        (["--html", "-"], "--html needs a file path"),
        (["--compare", "README.md", "--html", "README.md"], "'README.md' is an input"),
    ],
)
def test_wrong_use_is_said(words: list[str], said: str, effnet: Effnet) -> None:
    done = effnet("bench", *words)
    assert done.status == 2
    assert said in done.stderr
    assert done.stdout == b""
    assert len(done.stderr.strip().splitlines()) == 2


def test_engine_that_no_file_finds_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_is_installed", lambda name: name == "torch")
    task = BenchTask(device="cpu")
    assert list(start.engine_precisions(task, "tensors")) == [("torch", "fp32")]
    with pytest.raises(EffnetError, match=".tflite files needs ai_edge_litert, which is not"):
        list(start.engine_precisions(task, "litert"))
    with pytest.raises(EffnetError, match="fp16 on cpu needs openvino, which is not installed"):
        bench(BenchTask(precisions=("fp16",)))


@pytest.mark.parametrize(
    ("content", "said"),
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
def test_earlier_result_that_is_none_is_refused(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        formats.load_result(path)
    assert caught.value.message.startswith(
        f"{str(path)!r} is not a result of `effnet bench`: {said}"
    )


@pytest.mark.parametrize("value", [0, -1, "1", None, float("nan"), float("inf")])
def test_earlier_result_with_an_impossible_time_is_refused(
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


# --- processes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [("dies", EffnetError, "SIGKILL"), ("refuses", EffnetError, "no such thing"),
     ("fails", RuntimeError, "a bug of ours")],
)  # fmt: skip
def test_process_that_fails_is_told(
    function: str, error: type[Exception], said: str, tmp_path: Path
) -> None:
    model = replace(prepare.prepare_product("cpu", tmp_path).model, builder=f"failing:{function}")
    with pytest.raises(error, match=said):
        Worker(WorkerRequest(model, EnginePlan("torch", "cpu", "fp32"), "inference"))


def test_process_that_gives_no_answer_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker, "SILENCE_SECONDS", 1)
    model = replace(prepare.prepare_product("cpu", tmp_path).model, builder="failing:hangs")
    with pytest.raises(EffnetError, match="did not respond for 1 s"):
        Worker(WorkerRequest(model, EnginePlan("torch", "cpu", "fp32"), "inference"))
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="nothing can be made to hang")
@pytest.mark.parametrize("name", ["lite0", "matrix product"])
def test_hang_between_turns_leaves_the_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Case.turn

    def hanging(case: Case, seconds: float) -> Turn:
        process = case.worker._process
        if case.prepared.model.name == name and process.is_alive():
            assert process.pid
            os.kill(process.pid, signal.SIGSTOP)
            monkeypatch.setattr(worker, "SILENCE_SECONDS", 3)
            monkeypatch.setattr(worker, "SILENT_CALLS", 0)
        return whole(case, seconds)

    monkeypatch.setattr(Case, "turn", hanging)
    task = BenchTask(("lite0", "b0"), engines=("onnxruntime",), seconds=0.1, batch_sizes=(1, 2))
    heard = RecordingReporter()
    result = bench(task, heard)
    (skipped,) = result.skipped
    assert (skipped.variant, skipped.engine, skipped.is_failure) == (name, "onnxruntime", True)
    assert "did not respond for" in skipped.reason
    assert f"Skipping {name} on onnxruntime: " in heard.text
    names = {timing.variant for timing in result.timings}
    assert names == {"lite0", "b0"} - {name}
    is_known = name == "lite0"
    assert all((timing.share_of_peak is not None) == is_known for timing in result.timings)


def test_nothing_that_answers_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(case: Case, seconds: float) -> Turn:
        raise EffnetError("It is gone.", "Look for it.")

    monkeypatch.setattr(Case, "turn", gone)
    task = BenchTask(("lite0",), engines=("onnxruntime",), seconds=0.1, batch_sizes=(1,))
    with pytest.raises(EffnetError, match=r"Nothing could be measured: It is gone. Look for it."):
        bench(task)


@pytest.mark.timeout(60)
def test_engine_that_loads_its_library_in_silence_is_measured(tmp_path: Path) -> None:
    model = prepare.prepare_product("cpu", tmp_path).model
    request = WorkerRequest(
        replace(model, builder="failing:silences"),
        EnginePlan("torch", "cpu", "fp32"),
        "inference",
    )
    silent = Worker(request)
    try:
        assert silent.warm_up(1).call_ms > 0
    finally:
        silent.close()


def test_fault_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_variant = prepare.prepare_variant

    def broken(name: str, folder: Path, reporter: RecordingReporter) -> prepare.PreparedModel:
        prepared = prepare_variant(name, folder, reporter)
        missing = replace(prepared.model, options=None, graph=None)
        return replace(prepared, model=missing) if name == "lite0" else prepared

    monkeypatch.setattr(prepare, "prepare_variant", broken)
    task = BenchTask(("lite0", "b0"), engines=("onnxruntime",), seconds=0.1, batch_sizes=(1,))
    result = bench(task)
    assert [timing.variant for timing in result.timings] == ["b0"]
    assert [(one.variant, one.is_failure) for one in result.skipped] == [("lite0", True)]


# --- what is prepared ---------------------------------------------------------------------------


def test_peer_answers_as_in_torch(tmp_path: Path, one_thread: None) -> None:
    model = prepare.prepare_torchvision("resnet18", tmp_path).model
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = prepare.build_seeded(model.variant)(pixels).numpy()
    given = onnxruntime.InferenceSession(str(model.graph)).run(None, {"pixels": pixels.numpy()})
    np.testing.assert_allclose(given[0], wanted, atol=1e-4 * np.abs(wanted).max())


def test_peer_with_other_operators_is_measured_on_torch_only(tmp_path: Path) -> None:
    model = prepare.prepare_torchvision("densenet121", tmp_path).model
    assert model.graph is None
    with pytest.raises(EffnetError, match="cannot write as a graph"):
        model.resolve("onnxruntime")
    assert isinstance(build.load_module(model.resolve("torch")), torch.nn.Module)


def test_yardstick_is_the_same_product_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(prepare.PRODUCT_PX, "cpu", 2)
    model = prepare.prepare_product("cpu", tmp_path).model
    crops = np.random.default_rng(0).integers(0, 256, (16, *model.shape), dtype=np.uint8)
    shapes = []
    for engine in ("onnxruntime", "torch"):
        loaded = EnginePlan(engine, "cpu", "fp32").load(model.resolve(engine))  # type: ignore[arg-type]
        shapes.append(loaded(crops).shape)
    assert shapes == [(16, 12), (16, 12)]


# --- the answer ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def row(result: BenchResult) -> Timing:
    return result.timings[0]


def timing(
    row: Timing, variant: str, engine: str, ms: float, top1: float | None, batch_size: int = 1
) -> Timing:
    return replace(
        row, variant=variant, engine=engine, p50_ms=ms, images_per_s=1000 * batch_size / ms,
        top1=top1, batch_size=batch_size, weights="seeded",
    )  # fmt: skip


def test_answer_names_the_fastest_and_the_most_accurate(result: BenchResult, row: Timing) -> None:
    rows = (
        timing(row, "lite0", "openvino", 4.0, 75.1),
        timing(row, "lite0", "torch", 9.0, 75.1),
        timing(row, "b1", "onnxruntime", 10.0, 79.8),
        timing(row, "b1", "openvino", 11.0, 79.8),
        timing(row, "b4", "openvino", 60.0, 83.4),
        timing(row, "lite0", "torch", 20.0, 75.1, batch_size=8),
        timing(row, "resnet18", "openvino", 1.0, 99.0),  # not one of ours
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


def test_page_loads_nothing_and_hides_nothing(result: BenchResult, row: Timing) -> None:
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
    # fifteen columns fit a laptop's window only where their text may break, and scroll on a phone
    style = page.partition("</style>")[0]
    assert style.rindex("td.text, td:first-child { white-space: normal; }") > style.index("nowrap")
    assert ".scroll { overflow-x: auto;" in style


def test_run_without_a_listener_is_silent(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    bench(BenchTask(("lite0",), engines=("openvino",), seconds=0.1, batch_sizes=(1,)), SILENT)
    heard = capfdbinary.readouterr()
    assert (heard.out, heard.err) == (b"", b"")


# --- a GPU ----------------------------------------------------------------------------------------


@pytest.mark.cuda
def test_gpu_is_timed_by_its_own_clock() -> None:
    network = resolve_model(ModelOptions("lite0"))
    engine = EnginePlan("torch", "cuda", "fp16").load(network)
    crops = np.zeros((4, 224, 224, 3), np.uint8)
    assert isinstance(engine, DeviceClock)
    times = engine.device_times_ms(crops, 20)
    assert times is not None
    assert len(times) == 20
    assert 0 < min(times) <= max(times) < 1000
    assert engine(crops).shape == (4, 1000)
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
