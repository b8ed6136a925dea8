"""Check the figures of `effnet bench`: against bare runtimes, and from run to run.

bench.py [--variants lite0 b0] [--seconds 30] [--only loop|again]

- `loop`: the median at batch 1 beside a bare loop of each runtime over the same file: onnxruntime
  and OpenVINO as their documentation starts them, in a process without effnet that takes turns
  with effnet's.
- `again`: two consecutive runs of `effnet bench`; values that both call stable must agree.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from effnet_cli.bench import prepare
from effnet_cli.bench.rounds import measure_rounds
from effnet_cli.bench.statistics import Turn, summarize
from effnet_cli.bench.worker import Worker, WorkerRequest
from effnet_cli.engines.compiled import get_compiled
from effnet_cli.engines.registry import EnginePlan
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import EngineName
from effnet_cli.system.reporter import SILENT

ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")
# Reads "SECONDS" lines, replies with the times of its calls in milliseconds.
BARE = """
import json, sys, time
import numpy as np
kind, path, px = sys.argv[1], sys.argv[2], int(sys.argv[3])
pixels = np.random.default_rng(0).standard_normal((1, 3, px, px), dtype=np.float32)
if kind == "onnxruntime":
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    call = lambda: session.run(None, {name: pixels})
else:
    import openvino
    model = openvino.Core().read_model(path)
    model.reshape([1, 3, px, px])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    call = lambda: request.infer([pixels], share_inputs=True)
for _ in range(20):
    call()
for line in sys.stdin:
    end, times = time.perf_counter() + float(line), []
    while len(times) < 2 or time.perf_counter() < end:
        started = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - started) / 1e6)
    print(json.dumps(times[1:]), flush=True)
"""


class Bare:
    """A bare loop over a runtime: a `Measurable`."""

    def __init__(self, engine: EngineName, path: Path, crop_px: int) -> None:
        command = [sys.executable, "-c", BARE, engine, str(path), str(crop_px)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def turn(self, seconds: float) -> Turn:
        """See `Measurable`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        times = json.loads(self.process.stdout.readline())
        return Turn(tuple(times), len(times), sum(times) / 1000)


class Ours:
    """A process of `effnet bench`: a `Measurable`."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def turn(self, seconds: float) -> Turn:
        """See `Measurable`."""
        return self.worker.turn(1, seconds)


def loop(variants: list[str], seconds: float) -> None:
    """Print effnet's median relative to the bare loop's."""
    for name in variants:
        for engine in ENGINES:
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                model = prepare.prepare_variant(name, Path(folder), SILENT)
                path = model.graph
                if path is None:
                    made = get_compiled(resolve_model(model.options), SILENT)  # type: ignore[arg-type]
                    assert isinstance(made, Path)
                    path = made
                worker = Worker(
                    WorkerRequest(model, EnginePlan(engine, "cpu", "fp32"), "inference")
                )
                stack.callback(worker.close)
                worker.warm_up(1)
                bare = Bare(engine, path, model.shape[0])
                stack.callback(bare.process.kill)
                ours, theirs = map(summarize, measure_rounds([Ours(worker), bare], seconds))
            print(
                f"{name} {engine}: effnet {ours.p50_ms:.3f} ms, bare loop {theirs.p50_ms:.3f} ms,"
                f" ratio {ours.p50_ms / theirs.p50_ms:.3f} ({ours.turns} turns each)",
                flush=True,
            )


def again(variants: list[str], seconds: float) -> None:
    """Compare two consecutive runs."""
    command = [sys.executable, "-m", "effnet_cli", "bench", "--variant", ",".join(variants)]
    command += ["--seconds", str(seconds), "--format", "json", "--quiet"]
    runs = []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows = json.loads(done.stdout)["results"]
        runs.append({(r["variant"], r["engine"], r["batch_size"]): r for r in rows})
    for key in runs[0].keys() & runs[1].keys():
        one, other = runs[0][key], runs[1][key]
        ratio = other["p50_ms"] / one["p50_ms"]
        verdicts = {one["verdict"], other["verdict"]}
        holds = abs(ratio - 1) <= 0.05 or verdicts != {"stable"}
        print(*key, f"{one['p50_ms']:.2f} {other['p50_ms']:.2f} ms, ratio {ratio:.3f},", end=" ")
        print(f"{one['verdict']}, {other['verdict']}:", "holds" if holds else "DOES NOT HOLD")


def main() -> None:
    """Run the selected rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", default=["lite0", "b0"])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--only", choices=["loop", "again"])
    given = parser.parse_args()
    for name, row in (("loop", loop), ("again", again)):
        if given.only in (None, name):
            row(given.variants, given.seconds)


if __name__ == "__main__":
    main()
