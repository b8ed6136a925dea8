"""The checks of `effnet doctor`.

Libraries are loaded in separate processes, because some combinations crash the process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from typing import Literal

from packaging.requirements import Requirement

from effnet_cli.engines.registry import ENGINES
from effnet_cli.images.samples import sample_images_dir
from effnet_cli.models import listing
from effnet_cli.models.variants import DEFAULT_VARIANT, PUBLISHED, VARIANTS
from effnet_cli.models.weights import weights_state
from effnet_cli.options import EngineName
from effnet_cli.system.errors import EffnetError
from effnet_cli.system.files import cache_dir, is_file, list_files, process_lock
from effnet_cli.system.machine import describe_machine
from effnet_cli.system.reporter import SILENT, Reporter

Status = Literal["ok", "absent", "broken"]

# Instructions that add up products of 8-bit numbers in 32 bits, so that nothing overflows.
INT8_SETS = {"avx512_vnni", "avx_vnni", "amx_int8", "neon", "asimddp", "i8mm"}
DISTRIBUTION = "effnet-cli"
SAMPLE, SAMPLE_LABEL = "coffee.jpg", "espresso"
TIMEOUT_SECONDS = 120
REQUIRED_ENGINE: EngineName = "onnxruntime"  # part of every installation
PAIR = (
    "import torch, torchvision; torchvision.models.efficientnet_b0; "
    "print('torch', torch.__version__)"
)
FIX_PAIR = "pip install --upgrade 'torch>=2.14' 'torchvision>=0.29'"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check's result. `fix` is the repair command; `is_required`: effnet needs what it checks."""

    area: str
    name: str
    detail: str
    status: Status = "ok"
    fix: str = ""
    is_required: bool = False


class _CheckError(Exception):
    """A check failed; the message says why."""


def run_checks(reporter: Reporter = SILENT) -> Iterator[CheckResult]:
    """Run all checks, one after another."""
    checks = {
        "the machine": check_machine,
        "the libraries": check_libraries,
        "torch with torchvision": check_torch_pair,
        "the engines": check_engines,
        "the cache": check_cache,
        "the weights": check_weights,
    }
    for number, (what, check) in enumerate(checks.items()):
        reporter.progress(f"Checking {what}", number, len(checks), unit="steps")
        yield from check()
    reporter.progress("Checked", len(checks), len(checks), unit="steps")


def is_healthy(results: Iterable[CheckResult]) -> bool:
    """Return whether everything that effnet requires is ok."""
    return not any(result.is_required and result.status != "ok" for result in results)


def check_machine() -> Iterator[CheckResult]:
    """Report the processor, the GPU and Python."""
    here = describe_machine()
    gpu, processor = here["gpu"], "{cpu}, {cores} cores, {memory_gb:g} GB".format(**here)
    sets = ", ".join(here["instruction_sets"]) or "none that matter"
    yield CheckResult("machine", "processor", processor)
    yield CheckResult("machine", "instruction sets", sets)
    if not INT8_SETS.isdisjoint(here["instruction_sets"]):
        int8 = "32-bit sums"
    elif "avx2" in here["instruction_sets"]:
        int8 = "16-bit sums: exact for effnet's exports, whose weights have 7 bits"
    else:
        int8 = "unknown"
    yield CheckResult("machine", "int8", int8)
    detail = "no NVIDIA GPU" if gpu is None else f"{gpu['name']}, driver {gpu['driver']}"
    yield CheckResult("machine", "GPU", detail, status="absent" if gpu is None else "ok")
    yield CheckResult("machine", "Python", f"{here['python']} on {here['os']}")


def check_libraries() -> Iterator[CheckResult]:
    """Check the version of each library that effnet depends on."""
    for line in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        extra = str(requirement.marker or "").partition("extra == ")[2].strip("\"'")
        if requirement.marker is not None and extra in ("dev", "docs", ""):
            continue
        name = requirement.name
        install = f"{DISTRIBUTION}[{extra}]" if extra else f"{name}{requirement.specifier}"
        fix, check = f"pip install --upgrade '{install}'", partial(_check_version, requirement)
        yield _check("library", name, check, fix=fix, is_required=not extra)


def _check_version(requirement: Requirement) -> str:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError as error:
        raise _CheckError("not installed") from error
    if not requirement.specifier.contains(version, prereleases=True):
        raise _CheckError(f"{version}, but effnet requires {requirement.specifier}")
    return version


def check_torch_pair() -> Iterator[CheckResult]:
    """Check that torch and torchvision load together: builds for CPU and CUDA do not mix."""
    check = partial(_run, "-c", PAIR)
    yield _check("library", "torch with torchvision", check, fix=FIX_PAIR, is_required=True)


def check_engines() -> Iterator[CheckResult]:
    """Check that each engine classifies a sample image, or at least loads."""
    for name, row in ENGINES.items():
        load = partial(_run, "-c", f"import {row.library}; print('loads')")
        check = partial(_predict, name) if "tensors" in row.kinds else load
        yield _check("engine", name, check, fix=row.install, is_required=name == REQUIRED_ENGINE)


def _check(
    area: str, name: str, check: Callable[[], str], *, fix: str, is_required: bool
) -> CheckResult:
    """Run `check`, which returns the detail or raises `_CheckError`."""
    try:
        return CheckResult(area, name, check(), is_required=is_required)
    except _CheckError as error:
        detail = str(error)
    is_absent = "not installed" in detail or "No module named" in detail
    status: Status = "absent" if is_absent and not is_required else "broken"
    return CheckResult(area, name, detail, status=status, fix=fix, is_required=is_required)


def _predict(engine: EngineName) -> str:
    """Return an engine's prediction for a sample image; `_CheckError` if it is wrong."""
    options = ["--engine", engine, "--offline", "--device", "cpu", "--format", "json"]
    arguments = ["predict", str(sample_images_dir() / SAMPLE), *options]
    best = json.loads(_run("-m", "effnet_cli", *arguments))[0]["predictions"][0]
    if best["label"] != SAMPLE_LABEL:
        raise _CheckError(f"predicts {best['label']!r} instead of {SAMPLE_LABEL!r}")
    return f"predicts {best['label']}, {best['probability']:.1%}"


def _run(*arguments: str) -> str:
    """Return what a separate Python process prints; `_CheckError` with its error if it fails."""
    try:
        done = subprocess.run(  # noqa: S603
            [sys.executable, *arguments], capture_output=True, text=True, check=False,
            timeout=TIMEOUT_SECONDS, env={**os.environ, "EFFNET_DEBUG": ""},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise _CheckError(f"did not finish within {TIMEOUT_SECONDS} s") from error
    if done.returncode == 0:
        return done.stdout.strip()
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")] or lines[-1:]
    how = f"killed by signal {-done.returncode}" if done.returncode < 0 else "failed"
    raise _CheckError(errors[0].removeprefix("Error: ") if errors else how)


def check_cache() -> Iterator[CheckResult]:
    """Check that the cache can be written."""
    folder = cache_dir()
    try:
        with process_lock(folder / "doctor") as lock:
            lock.unlink(missing_ok=True)
    except EffnetError:
        detail = f"cannot write to {folder}: models are recompiled on every run"
        fix = "export EFFNET_CACHE=FOLDER"
        yield CheckResult("cache", "compiled models", detail, status="broken", fix=fix)
        return
    size_mb = sum(path.stat().st_size for path in list_files(folder, "**/*") if is_file(path)) / 1e6
    yield CheckResult("cache", "compiled models", f"{folder}, {size_mb:,.0f} MB")


def check_weights() -> Iterator[CheckResult]:
    """Check that the weights on this machine are the published ones."""
    here = [row for row in VARIANTS.values() if weights_state(row) == "available"]
    for found in listing.verify_weights([*PUBLISHED, *(row for row in here if row.source.repo)]):
        is_required = found.variant == DEFAULT_VARIANT
        result = CheckResult("weights", found.variant, str(found), is_required=is_required)
        if found.status != "intact":
            status: Status = "broken" if found.path or is_required else "absent"
            result = replace(result, status=status, fix=found.fix)
        yield result
