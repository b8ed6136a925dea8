"""The checks of `effnet doctor`.

Libraries are loaded in processes of their own: some combinations end the process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import groupby
from operator import attrgetter
from typing import Literal

from packaging.requirements import Requirement

from effnet_cli.engines.registry import ENGINES
from effnet_cli.images.samples import sample_images_dir
from effnet_cli.models import listing
from effnet_cli.models.variants import DEFAULT_VARIANT, VARIANTS
from effnet_cli.options import EngineName
from effnet_cli.system.files import cache_dir
from effnet_cli.system.machine import describe_machine
from effnet_cli.system.reporter import SILENT, Reporter

DISTRIBUTION = "effnet-cli"
SAMPLE, SAMPLE_LABEL = "coffee.jpg", "espresso"
TIMEOUT_SECONDS = 120
REQUIRED_ENGINE: EngineName = "onnxruntime"  # part of every installation
PAIR = "import torch, torchvision; torchvision.models.efficientnet_b0; print(torch.__version__)"
FIX_PAIR = "pip install --upgrade 'torch>=2.14' 'torchvision>=0.29'"
TABLE_COLUMNS = ("name", "status", "detail", "fix")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check; `fix` is the command that repairs it. `is_required`: effnet needs it to work."""

    area: str
    name: str
    detail: str
    status: Literal["ok", "absent", "broken"] = "ok"
    fix: str = ""
    is_required: bool = False


_broken = partial(CheckResult, status="broken")


def run_checks(reporter: Reporter = SILENT) -> Iterator[CheckResult]:
    """Run all checks, one after the other."""
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
    """Whether all that effnet requires is ok."""
    return not any(result.is_required and result.status != "ok" for result in results)


def to_rows(results: Iterable[CheckResult]) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """A title and rows of `TABLE_COLUMNS` for each area; wrapped, they fit 80 columns."""
    for area, group in groupby(results, key=attrgetter("area")):
        yield area.capitalize(), [(one.name, one.status, one.detail, one.fix) for one in group]


def check_machine() -> Iterator[CheckResult]:
    """The processor and a GPU."""
    here = describe_machine()
    gpu, memory_gb = here["gpu"], here["memory_gb"]
    memory = "" if memory_gb is None else f", {memory_gb:g} GB"
    sets = ", ".join(here["instruction_sets"]) or "none that matter"
    yield CheckResult("machine", "processor", f"{here['cpu']}, {here['cores']} cores{memory}")
    yield CheckResult("machine", "instruction sets", sets)
    detail = "no NVIDIA GPU" if gpu is None else f"{gpu['name']}, driver {gpu['driver']}"
    yield CheckResult("machine", "GPU", detail, status="absent" if gpu is None else "ok")
    yield CheckResult("machine", "Python", f"{here['python']} on {here['os']}")


def check_libraries() -> Iterator[CheckResult]:
    """Each library that effnet declares, against the versions that it needs."""
    for line in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        extra = str(requirement.marker or "").partition("extra == ")[2].strip("\"'")
        if requirement.marker is None or extra not in ("dev", ""):
            yield _check_library(requirement, extra)


def _check_library(requirement: Requirement, extra: str) -> CheckResult:
    """`extra` is the extra that the requirement belongs to, "" if effnet always needs it."""
    name, needed = requirement.name, requirement.specifier
    fix = f"pip install --upgrade '{name}{needed}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        if extra:
            detail, fix = f"not installed (extra {extra})", f"pip install '{DISTRIBUTION}[{extra}]'"
            return CheckResult("library", name, detail, status="absent", fix=fix)
        detail = "not installed"
    else:
        if needed.contains(version, prereleases=True):
            return CheckResult("library", name, version)
        detail = f"{version}, and effnet needs {needed}"
    return _broken("library", name, detail, fix=fix, is_required=not extra)


def check_torch_pair() -> Iterator[CheckResult]:
    """Whether torch and torchvision load together: builds for CPU and CUDA do not mix."""
    name = "torch with torchvision"
    output, error = _run(sys.executable, "-c", PAIR)
    if error is None:
        yield CheckResult("library", name, f"torch {output.strip()}")
    else:
        yield _broken("library", name, error, fix=FIX_PAIR, is_required=True)


def check_engines() -> Iterator[CheckResult]:
    """Whether each engine predicts a sample image, or at least loads."""
    for name, row in ENGINES.items():
        if "tensors" in row.kinds:
            output, error = _predict(name)
        else:
            output, error = _run(sys.executable, "-c", f"import {row.library}")
        if error is None:
            yield CheckResult("engine", name, output.strip() or "loads")
            continue
        is_absent = "is not installed" in error or "No module named" in error
        yield CheckResult(
            "engine",
            name,
            "not installed" if is_absent else error,
            status="absent" if is_absent else "broken",
            fix=row.install,
            is_required=name == REQUIRED_ENGINE,
        )


def _predict(engine: EngineName) -> tuple[str, str | None]:
    """What an engine predicts for a sample image, and what is wrong with it."""
    image = str(sample_images_dir() / SAMPLE)
    options = ["--engine", engine, "--offline", "--device", "cpu", "--format", "json"]
    output, error = _run(sys.executable, "-m", "effnet_cli", "predict", image, *options)
    if error is not None:
        return "", error
    best = json.loads(output)[0]["predictions"][0]
    if best["label"] != SAMPLE_LABEL:
        return "", f"predicts {best['label']!r} instead of {SAMPLE_LABEL!r}"
    return f"predicts {best['label']}, {best['probability']:.1%}", None


def _run(*command: str) -> tuple[str, str | None]:
    """What a command prints, and its last error if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "EFFNET_DEBUG"}
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "", f"did not end within {TIMEOUT_SECONDS} s"
    if done.returncode == 0:
        return done.stdout, None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")] or lines[-1:]
    how = f"ended by signal {-done.returncode}" if done.returncode < 0 else "failed"
    return "", errors[0].removeprefix("Error: ") if errors else how


def check_cache() -> Iterator[CheckResult]:
    """Whether the cache can be written."""
    folder, name = cache_dir(), "compiled models"
    size_mb = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if os.access(nearest, os.W_OK):
        yield CheckResult("cache", name, f"{folder}, {size_mb:,.0f} MB")
    else:
        detail = f"cannot write {folder}: models are recompiled on every run"
        yield CheckResult("cache", name, detail, status="broken", fix="export EFFNET_CACHE=FOLDER")


def check_weights() -> Iterator[CheckResult]:
    """Whether the weights on this machine are the published ones."""
    for result in listing.verify_weights(VARIANTS.values()):
        if result.status == "intact":
            yield CheckResult("weights", result.variant, str(result))
            continue
        is_required = result.variant == DEFAULT_VARIANT
        yield CheckResult(
            "weights",
            result.variant,
            str(result),
            status="broken" if result.path or is_required else "absent",
            fix=result.fix,
            is_required=is_required,
        )
