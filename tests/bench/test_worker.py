"""Worker processes that fail, hang or print while loading."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from effnet_cli.bench import prepare, worker
from effnet_cli.bench.worker import Worker, WorkerRequest
from effnet_cli.engines.registry import EnginePlan
from effnet_cli.system.errors import EffnetError

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(scope="module", autouse=True)
def small_product() -> Iterator[None]:
    """A small matrix product, which starts fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(prepare.PRODUCT_PX, "cpu", 13)
        yield


@pytest.mark.linux
@pytest.mark.parametrize(
    ("builder", "error", "message"),
    [("crash", EffnetError, "SIGKILL"), ("refuse", EffnetError, "does not exist"),
     ("fail", RuntimeError, "a bug in the builder")],
)  # fmt: skip
def test_failed_worker_reports_the_cause(
    builder: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    model = replace(prepare.prepare_product("cpu", tmp_path), builder=f"failing:{builder}")
    with pytest.raises(error, match=message):
        Worker(WorkerRequest(model, EnginePlan("torch", "cpu", "fp32"), "inference"))


def test_hanging_worker_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(worker, "SILENCE_SECONDS", 1)
    model = replace(prepare.prepare_product("cpu", tmp_path), builder="failing:hang")
    with pytest.raises(EffnetError, match="did not respond for 1 s"):
        Worker(WorkerRequest(model, EnginePlan("torch", "cpu", "fp32"), "inference"))
    assert not multiprocessing.active_children()


@pytest.mark.timeout(60)
def test_engine_that_silences_its_output_is_measured(tmp_path: Path) -> None:
    model = prepare.prepare_product("cpu", tmp_path)
    request = WorkerRequest(
        replace(model, builder="failing:build_silently"),
        EnginePlan("torch", "cpu", "fp32"),
        "inference",
    )
    silenced = Worker(request)
    try:
        assert silenced.warm_up(1).call_ms > 0
    finally:
        silenced.close()
