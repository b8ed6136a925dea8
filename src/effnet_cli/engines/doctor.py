"""What works here and what does not, and the one command that mends it.

Libraries are tried in processes of their own: some that do not fit each other end the process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from packaging.requirements import Requirement

from effnet_cli.engines import ENGINES
from effnet_cli.images.samples import sample_images_dir
from effnet_cli.models import listing
from effnet_cli.models.variants import DEFAULT_VARIANT, VARIANTS
from effnet_cli.options import EngineName
from effnet_cli.system.files import cache_dir
from effnet_cli.system.machine import describe_machine
from effnet_cli.system.reporter import SILENT, Reporter

Status = Literal["ok", "absent", "broken"]

DISTRIBUTION = "effnet-cli"
SAMPLE, SAMPLE_LABEL = "coffee.jpg", "espresso"
PATIENCE_SECONDS = 120
# What every installation has and every command may need.
NEEDED_ENGINE: EngineName = "onnxruntime"
PAIR = "import torch, torchvision; torchvision.models.efficientnet_b0; print(torch.__version__)"
MEND_PAIR = "pip install --upgrade 'torch>=2.14' 'torchvision>=0.29'"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that was looked at: what it is like, and what to type where it is not well.

    `is_needed`: without it effnet does not do its work.
    """

    area: str
    name: str
    status: Status
    detail: str
    mend: str = ""
    is_needed: bool = False


def run_checks(reporter: Reporter = SILENT) -> Iterator[CheckResult]:
    """Everything that effnet stands on, one after the other."""
    parts = {
        "the machine": machine,
        "the libraries": libraries,
        "torch beside torchvision": torch_pair,
        "the engines": engines,
        "the cache": caches,
        "the weights": weights,
    }
    for number, (what, part) in enumerate(parts.items()):
        reporter.progress(f"Looks at {what}", number, len(parts), "steps")
        yield from part()
    reporter.progress("Looked", len(parts), len(parts), "steps")


def machine() -> Iterator[CheckResult]:
    """The processor and a GPU."""
    here = describe_machine()
    memory = "" if here["memory_gb"] is None else f", {here['memory_gb']:g} GB"
    sets = ", ".join(here["instruction_sets"]) or "no instruction sets that matter"
    yield CheckResult("machine", "processor", "ok", f"{here['cpu']}, {here['cores']} cores{memory}")
    yield CheckResult("machine", "instruction sets", "ok", sets)
    gpu = here["gpu"]
    words = "no NVIDIA GPU" if gpu is None else f"{gpu['name']}, driver {gpu['driver']}"
    yield CheckResult("machine", "GPU", "absent" if gpu is None else "ok", words)
    yield CheckResult("machine", "Python", "ok", f"{here['python']} on {here['os']}")


def libraries() -> Iterator[CheckResult]:
    """Every library that effnet declares, against the version that it asks for."""
    for line in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        extra = _extra(requirement)
        if extra in ("dev", None) and requirement.marker is not None:
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            mend = f"pip install '{DISTRIBUTION}[{extra}]'" if extra else _install(requirement)
            status: Status = "absent" if extra else "broken"
            words = f"not installed (extra {extra})" if extra else "not installed"
            yield CheckResult("library", requirement.name, status, words, mend, not extra)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            yield CheckResult("library", requirement.name, "ok", version)
        else:
            words = f"{version}, and effnet needs {requirement.specifier}"
            mend = _install(requirement)
            yield CheckResult("library", requirement.name, "broken", words, mend, not extra)


def _extra(requirement: Requirement) -> str | None:
    """The extra that a requirement belongs to."""
    text = str(requirement.marker or "")
    return text.partition("extra == ")[2].strip("\"'") or None


def _install(requirement: Requirement) -> str:
    return f"pip install --upgrade '{requirement.name}{requirement.specifier}'"


def torch_pair() -> Iterator[CheckResult]:
    """Whether torch and torchvision load beside each other: builds for CPU and CUDA do not mix."""
    said, fault = _said(sys.executable, "-c", PAIR)
    if fault is None:
        yield CheckResult("library", "torch with torchvision", "ok", f"torch {said.strip()}")
    else:
        yield CheckResult("library", "torch with torchvision", "broken", fault, MEND_PAIR, True)


def engines() -> Iterator[CheckResult]:
    """Whether each engine answers an image as it should."""
    for name, row in ENGINES.items():
        is_needed = name == NEEDED_ENGINE
        if "tensors" not in row.kinds:
            said, fault = _said(sys.executable, "-c", f"import {row.library}")
        else:
            said, fault = _answer(name)
        if fault is None:
            yield CheckResult("engine", name, "ok", said.strip() or "loads")
        elif "is not installed" in fault or "No module named" in fault:
            yield CheckResult("engine", name, "absent", "not installed", row.install, is_needed)
        else:
            yield CheckResult("engine", name, "broken", fault, row.install, is_needed)


def _answer(engine: EngineName) -> tuple[str, str | None]:
    """What an engine says of a sample image, and what is wrong with that."""
    image = str(sample_images_dir() / SAMPLE)
    words = ["predict", image, "--engine", engine, "--offline", "--device", "cpu", "-f", "json"]
    said, fault = _said(sys.executable, "-m", "effnet_cli", *words)
    if fault is not None:
        return "", fault
    best = json.loads(said)[0]["predictions"][0]
    if best["label"] != SAMPLE_LABEL:
        return "", f"answers {best['label']!r} where {SAMPLE_LABEL!r} belongs"
    return f"answers {best['label']}, {best['probability']:.1%}", None


def _said(*command: str) -> tuple[str, str | None]:
    """What a command prints, and its last words where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "EFFNET_DEBUG"}
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "", f"no end after {PATIENCE_SECONDS} s"
    if done.returncode == 0:
        return done.stdout, None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")] or lines[-1:]
    how = f"ended by signal {-done.returncode}" if done.returncode < 0 else "failed"
    return "", errors[0].removeprefix("Error: ") if errors else how


def caches() -> Iterator[CheckResult]:
    """Whether the cache can be written."""
    folder = cache_dir()
    size_mb = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if os.access(nearest, os.W_OK):
        yield CheckResult("cache", "compiled networks", "ok", f"{folder}, {size_mb:,.0f} MB")
    else:
        words = f"{folder} cannot be written: every start compiles anew"
        yield CheckResult(
            "cache", "compiled networks", "broken", words, "export EFFNET_CACHE=FOLDER"
        )


def weights() -> Iterator[CheckResult]:
    """Whether the weights that are here are the published ones."""
    for result in listing.verify_weights(VARIANTS.values()):
        is_needed = result.variant == DEFAULT_VARIANT
        if result.status == "intact":
            yield CheckResult("weights", result.variant, "ok", str(result))
        else:
            status: Status = "broken" if result.path or is_needed else "absent"
            name, fix = result.variant, result.fix
            yield CheckResult("weights", name, status, str(result), fix, is_needed)


def all_ok(findings: list[CheckResult]) -> bool:
    """Whether all that effnet needs is well."""
    return not any(one.is_needed and one.status != "ok" for one in findings)
