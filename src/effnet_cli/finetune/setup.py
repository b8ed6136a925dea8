"""Sets up a run: device, dataset, pretrained model, run folder."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from effnet_cli.datasets.records import Dataset, Subset
from effnet_cli.datasets.saved_split import count_trained_on, identify_run, load_split
from effnet_cli.datasets.scan import scan
from effnet_cli.engines.registry import EnginePlan, plan_engine
from effnet_cli.finetune.distributed import ProcessGroup
from effnet_cli.finetune.inference import Inference
from effnet_cli.finetune.loader import BatchLoader, CacheBudget
from effnet_cli.finetune.objective import Objective, make_objective
from effnet_cli.finetune.run_dir import (
    RunDir,
    check_output,
    choose_path,
    lock_run_dir,
    suggest_restoring,
)
from effnet_cli.finetune.signals import stop_on_signal
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models import build
from effnet_cli.models.card import ModelCard
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import DEFAULT_VARIANT, VARIANTS, find_variant
from effnet_cli.models.weights import Model, find_local_weights, resolve_model
from effnet_cli.options import (
    DICOM_FIELDS,
    TRAINING_ONLY,
    EngineOptions,
    FinetuneOptions,
    FinetuneTask,
    ImageOptions,
    TrainingPrecision,
)
from effnet_cli.system.errors import UsageError
from effnet_cli.system.files import is_file
from effnet_cli.system.machine import keep_freed_memory
from effnet_cli.system.parallel import usable_cores
from effnet_cli.system.reporter import SILENT, Reporter
from effnet_cli.system.text import pluralize

AUTO_VARIANT = "auto"
STEM_AND_TOP = 2  # stages of `features` besides those of the architecture


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """Everything that a run needs before its first epoch.

    `module` is the pretrained model with a new head, in evaluation mode on the CPU; `card`
    describes the new model. `started_at` is read from
    `time.monotonic`. `make_module` builds `module` again, which training changes.
    """

    task: FinetuneTask
    processes: ProcessGroup
    reporter: Reporter
    device: torch.device
    precision: str
    dataset: Dataset
    card: ModelCard
    module: nn.Module
    make_module: Callable[[], nn.Module]
    objective: Objective
    inference: Inference
    make_loader: Callable[[Subset], BatchLoader]
    train: BatchLoader
    val: BatchLoader
    run_dir: RunDir
    started_at: float

    @property
    def options(self) -> FinetuneOptions:
        return self.task.options


@contextmanager
def set_up(
    task: FinetuneTask,
    processes: ProcessGroup,
    reporter: Reporter,
    *,
    choose_variant: Callable[[Iterator[TrainingSetup]], str],
) -> Iterator[TrainingSetup]:
    """Check the options, scan the dataset, load the model, and lock the run folder until the block
    ends.

    Args:
        choose_variant: for `--variant auto`, gets a set-up for each variant whose weights are on
            this machine, in ascending order of their cost, and returns the name of the best.
    """
    started_at = time.monotonic()
    if task.options.final == "all" and task.options.minutes is not None:
        raise UsageError(
            "--final all cannot be combined with --minutes: it trains a second time.",
            "Omit one of them.",
        )
    plan = _plan_engine(task, processes)
    if task.resume is None:
        processes.broadcast(lambda: check_output(task.output))
        if task.model.model is not None:  # refuse it now, not after the scan
            if is_file(task.model.model):
                build.check_has_weights(task.model.model)
            resolve_model(task.model)
    is_auto = task.model.variant == AUTO_VARIANT
    if is_auto:
        _check_auto_variant(task)
    _check_multi_label(task)
    dataset = processes.broadcast(lambda: _scan(task, reporter))
    make_setup = partial(
        _make_setup,
        plan=plan,
        dataset=dataset,
        processes=processes,
        reporter=reporter,
        started_at=started_at,
    )
    if is_auto:
        names = processes.broadcast(lambda: _list_local_variants(task.options.freeze))
        tasks = [_with_variant(task, name) for name in names]
        setups = (make_setup(one, _load_base(one, processes, SILENT)) for one in tasks)
        task = _with_variant(task, choose_variant(setups))
    base = _load_base(task, processes, reporter)
    if task.resume is None and task.model.model is not None and processes.is_first:
        _note_seen_images(dataset, base, reporter)
    setup = make_setup(task, base)
    with _open_run_dir(task, base, processes) as run_dir:
        yield replace(setup, run_dir=run_dir)


def _make_setup(
    task: FinetuneTask,
    base: Model,
    *,
    plan: EnginePlan,
    dataset: Dataset,
    processes: ProcessGroup,
    reporter: Reporter,
    started_at: float,
) -> TrainingSetup:
    """Build the model and prepare its images. The run folder is not open yet."""
    card = _make_card(task, base, dataset)
    make_module = partial(_build_module, task.options, base, len(dataset.classes))
    loader = ImageLoader(card.preprocessing, task.images)
    make_loader = partial(
        BatchLoader,
        loader=loader,
        budget=CacheBudget(),
        workers=task.workers or usable_cores(),
        reporter=reporter,
    )
    device = torch.device(plan.device)
    return TrainingSetup(
        task=task,
        processes=processes,
        reporter=reporter,
        device=device,
        precision=_choose_precision(task.options.precision, device),
        dataset=dataset,
        card=card,
        module=make_module(),
        make_module=make_module,
        objective=make_objective(dataset, task.options),
        inference=Inference(plan, base.variant, card, processes=processes, reporter=reporter),
        make_loader=make_loader,
        train=make_loader(dataset.train),
        val=make_loader(dataset.val),
        run_dir=RunDir(Path()),
        started_at=started_at,
    )


def _check_auto_variant(task: FinetuneTask) -> None:
    """Refuse `--variant auto` together with options that leave nothing to choose."""
    others = {"--weights": task.model.weights, "--from-scratch": task.options.from_scratch}
    for flag in filter(others.get, others):
        raise UsageError(
            f"--variant {AUTO_VARIANT} compares published weights, and cannot be combined with "
            f"{flag}.",
            "Name a variant (see `effnet variants`).",
        )


def _check_multi_label(task: FinetuneTask) -> None:
    """Refuse options that have no meaning where images have several labels."""
    excluded = {
        "--folds": task.options.folds is not None,
        f"--method {task.options.method}": not task.options.is_trained,
        f"--variant {AUTO_VARIANT}": task.model.variant == AUTO_VARIANT,
    }
    for flag in filter(excluded.get, excluded) if task.dataset.multi_label else ():
        raise UsageError(f"{flag} cannot be combined with --multi-label.", f"Omit {flag}.")


def _list_local_variants(freeze: int) -> list[str]:
    """Return the variants whose weights are on this machine and that have as many stages as will be
    frozen, in ascending order of their cost.
    """
    fitting = [
        row
        for row in VARIANTS.values()
        if freeze <= STEM_AND_TOP + len(row.architecture.family.blocks)
    ]
    rows = [row for row in fitting if find_local_weights(row) is not None]
    rows = rows or [find_variant(DEFAULT_VARIANT)]
    return [row.name for row in sorted(rows, key=lambda row: row.giga_multiply_adds)]


def _with_variant(task: FinetuneTask, name: str) -> FinetuneTask:
    return replace(task, model=replace(task.model, variant=name))


def _plan_engine(task: FinetuneTask, processes: ProcessGroup) -> EnginePlan:
    """Choose the device and the validation engine; each process on a machine gets its own GPU."""
    plan = plan_engine(EngineOptions(task.device))
    if plan.device == "cuda" and processes.count > 1:
        plan = plan_engine(EngineOptions(f"cuda:{processes.local_rank}"))
    if task.options.precision != "auto":  # reject it now, not after the scan
        plan_engine(EngineOptions(plan.device, "torch", task.options.precision))
    if plan.device == "cpu":
        keep_freed_memory()
        torch.set_num_threads(max(1, usable_cores() // processes.local_count))
    return plan


def _choose_precision(precision: TrainingPrecision, device: torch.device) -> str:
    """Resolve `auto`: bf16 on a GPU that supports it, else fp32 (autocast is slower on a CPU)."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def _scan(task: FinetuneTask, reporter: Reporter) -> Dataset:
    with suggest_restoring():
        saved = None if task.resume is None else load_split(task.resume)
    result = scan(
        task.root,
        task.dataset,
        seed=task.options.seed,
        images=task.images,
        earlier={} if saved is None else saved.contents,
        workers=task.workers,
        reporter=reporter,
    )
    for finding in result.findings:
        if finding.level != "error":
            reporter.note(f"{finding.message} {finding.hint}".strip())
    return result.require_dataset()


def _note_seen_images(dataset: Dataset, base: Model, reporter: Reporter) -> None:
    """Say how many validation and test images the base model was trained on."""
    for split, seen, total in count_trained_on(dataset, base.card, base.path.parent):
        reporter.note(
            f"{seen:,} of {pluralize(total, f'{split} image')} were used to train the base model: "
            f"results on {split} will be overly optimistic."
        )


def _load_base(task: FinetuneTask, processes: ProcessGroup, reporter: Reporter) -> Model:
    """Return the model to start from; processes on other machines download it too."""
    base = processes.broadcast(lambda: _resolve_base(task, reporter))
    return base if processes.is_first else _resolve_base(task, SILENT)


def _resolve_base(task: FinetuneTask, reporter: Reporter) -> Model:
    if not task.options.from_scratch:
        base = resolve_model(task.model, reporter)
        if task.resume is None:
            reporter.note(f"Starting from {base.variant.name}: {base.path}")
        return base
    excluded = {
        "--model": task.model.model,
        "--weights": task.model.weights,
        "--head-only": task.options.head_only,
        f"--method {task.options.method}": not task.options.is_trained,
        "--folds": task.options.folds,
    }
    for flag in filter(excluded.get, excluded):
        raise UsageError(f"--from-scratch cannot be combined with {flag}.", "Omit one of them.")
    name = DEFAULT_VARIANT if task.model.variant is None else task.model.variant
    variant = find_variant(name)
    return Model(variant, imagenet_card(variant))


def _build_module(options: FinetuneOptions, base: Model, num_classes: int) -> nn.Module:
    """Build the pretrained or untrained model with a new head."""
    torch.manual_seed(options.seed)
    if options.from_scratch:
        module = build.build(base.variant, len(base.card.classes)).eval()
    else:
        module = build.load_module(base)
    num_stages = len(list(module.get_submodule("features").children()))
    if options.freeze > num_stages:
        raise UsageError(
            f"--freeze {options.freeze} exceeds the number of stages of {base.variant.name} "
            f"({num_stages}).",
            f"Use a number up to {num_stages}.",
        )
    build.set_head(module, num_classes, options.hidden)
    return module.eval()


def _make_card(task: FinetuneTask, base: Model, dataset: Dataset) -> ModelCard:
    """Return the card of the new model, whose crops cover the whole shorter side of an image.

    They are never squashed, because training views are not.

    Objects are larger in training views than in validation crops because views are parts of images.
    Validation gains from showing more of the image (Touvron et al. 2019, arXiv 1906.06423).
    """
    preprocessing = base.card.preprocessing
    return ModelCard(
        variant=base.variant.name,
        classes=dataset.classes,
        preprocessing=replace(preprocessing, resize_px=preprocessing.crop_px, is_squashed=False),
        options={
            **_select_options(task.options),
            **_select_dicom_options(task.images),
            "base_sha256": base.sha256,
        },
        dataset={
            "fingerprint": dataset.fingerprint,
            "run": identify_run(dataset, task.resume),
            "seed": task.options.seed,
            "val_fraction": task.dataset.val_fraction,
            "train": len(dataset.train.labels),
            "val": len(dataset.val.labels),
            "test": None if dataset.test is None else len(dataset.test.labels),
        },
    )


def _select_options(options: FinetuneOptions) -> dict[str, object]:
    """Return the options that have a meaning with the method."""
    unused = () if options.is_trained else TRAINING_ONLY
    return {name: value for name, value in asdict(options).items() if name not in unused}


def _select_dicom_options(images: ImageOptions) -> dict[str, object]:
    """Return what `predict` needs, to see DICOM images as in training, if it is not the default."""
    values = {name: getattr(images, name) for name in DICOM_FIELDS}
    return {name: value for name, value in values.items() if value != getattr(ImageOptions(), name)}


@contextmanager
def _open_run_dir(task: FinetuneTask, base: Model, processes: ProcessGroup) -> Iterator[RunDir]:
    """Open the run folder, locked by the first process. Signals stop the training from here on."""
    path = processes.broadcast(
        lambda: task.resume or choose_path(task.output, task.root, base.variant.name)
    )
    lock = lock_run_dir(path) if processes.is_first else nullcontext(RunDir(path))
    with lock as run_dir, stop_on_signal(path):
        yield run_dir
