"""Audit a dataset: find what is wrong with its files, labels and classes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from effnet_cli.audit.appearance import MIN_COMPARED_IMAGES, odd_images, outliers
from effnet_cli.audit.copies import exact_copies, near_copies, unreadable_files
from effnet_cli.audit.folds import MIN_CLASS_IMAGES
from effnet_cli.audit.labels import (
    MIN_BORDER_IMAGES,
    LabelCheck,
    check_labels,
    label_problems,
    similar_classes,
)
from effnet_cli.audit.measure import Looks, measure_images
from effnet_cli.audit.records import PROBLEM_KINDS, Audit, AuditedClass, Problem
from effnet_cli.datasets.checks import CLASS_CHECKS, CheckedFiles, run_checks
from effnet_cli.datasets.findings import Finding
from effnet_cli.datasets.label_errors import INSTALL_CLEANLAB, has_cleanlab
from effnet_cli.datasets.listing import LayoutError
from effnet_cli.datasets.scan import check_files, sort_findings
from effnet_cli.options import AuditTask, DatasetOptions
from effnet_cli.predict.classifier import Classifier
from effnet_cli.system.errors import UsageError
from effnet_cli.system.reporter import SILENT, Reporter
from effnet_cli.system.text import pluralize, quote_names

ABOUT_TRAINING = ("cannot_split", "empty_val")  # kinds of findings


def audit(task: AuditTask, reporter: Reporter = SILENT) -> Audit:
    """Audit a dataset. Problems are part of the result, and no file is changed.

    Raises:
        UsageError: no such dataset or model, or none of the images can be opened.
        EffnetError: the engine cannot be loaded or used.
    """
    classifier = Classifier(
        task.model, task.engine, task.images, options=task.predict, reporter=reporter
    )
    data = _check_files(task, reporter)
    looks = measure_images(classifier, data.listing.paths, data.first, reporter=reporter)
    check = check_labels(data, looks, task.options, reporter=reporter)
    problems = [*_file_problems(data, looks), *outliers(data, looks, reporter)]
    if check is not None:
        problems += label_problems(data, looks, check)
    return Audit(
        root=str(task.root),
        layout=data.listing.layout,
        model=classifier.name,
        folds=task.options.folds,
        images=len(data.listing.paths),
        classes=tuple(_describe_classes(data, problems, check)),
        findings=tuple(sort_findings(_class_findings(data, task.dataset))),
        problems=tuple(_rank(problems)),
        similar_classes=() if check is None else tuple(similar_classes(data, check)),
        accuracy=None if check is None else check.accuracy,
        border=None if check is None else check.border,
        notes=tuple(_limits(data, looks, check)),
    )


def _check_files(task: AuditTask, reporter: Reporter) -> CheckedFiles:
    try:
        data = check_files(
            task.root,
            task.dataset,
            seed=task.options.seed,
            images=task.images,
            workers=task.predict.workers,
            reporter=reporter,
        )
    except LayoutError as fault:
        found = fault.finding
        raise UsageError("\n".join([found.message, *found.paths]), found.hint) from fault
    if not len(data.listing.paths):
        raise UsageError(f"No images found in {str(task.root)!r}.", "Use another folder.")
    if not data.inspection.is_good.any():
        file, error = data.inspection.faults[0]
        count = pluralize(len(data.listing.paths), "image")
        raise UsageError(
            f"None of the {count} in {str(task.root)!r} can be opened, such as "
            f"{data.listing.paths[file]!r}: {error.message}",
            "Repair them, or use another folder.",
        )
    return data


def _file_problems(data: CheckedFiles, looks: Looks) -> Iterator[Problem]:
    yield from unreadable_files(data, [*data.inspection.faults, *looks.faults])
    yield from exact_copies(data)
    yield from near_copies(data)
    yield from odd_images(data, looks)


def _rank(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield the problems by kind, and number those of each kind."""
    order = {kind.name: place for place, kind in enumerate(PROBLEM_KINDS)}
    ranks: Counter[str] = Counter()
    for problem in sorted(problems, key=lambda one: order[one.kind]):
        ranks[problem.kind] += 1
        yield replace(problem, rank=ranks[problem.kind])


def _class_findings(data: CheckedFiles, options: DatasetOptions) -> Iterator[Finding]:
    """Yield what is found about classes; that training needs a split is no problem of the data."""
    found = [*data.listing.findings, *run_checks(CLASS_CHECKS, data, options)]
    yield from (one for one in found if one.kind not in ABOUT_TRAINING)


def _describe_classes(
    data: CheckedFiles, problems: Sequence[Problem], check: LabelCheck | None
) -> Iterator[AuditedClass]:
    counts = data.count().sum(axis=1).tolist()
    unreadable = Counter(one.label for one in problems if one.kind == "unreadable")
    wrong = Counter(one.label for one in problems if one.kind == "wrong_label")
    shares = {} if check is None else check.class_accuracies()
    for label, (name, images) in enumerate(zip(data.listing.classes, counts, strict=True)):
        yield AuditedClass(
            name, images, unreadable[name], likely_wrong=wrong[name], accuracy=shares.get(label)
        )


def _limits(data: CheckedFiles, looks: Looks, check: LabelCheck | None) -> Iterator[str]:
    """Yield what was not checked, or not as well as it could be, and why."""
    needed = f"{MIN_CLASS_IMAGES} different images"
    if check is None:
        yield f"Labels and borders were not checked: fewer than two classes have {needed}."
    else:
        names = data.names(check.images.skipped)
        if names:
            count = pluralize(len(names), "class", "classes")
            few = f"fewer than {needed}: {quote_names(names)}"
            yield f"Labels were not checked in {count} with {few}."
        if not has_cleanlab():
            yield (
                "Without cleanlab, all labels that are predicted otherwise count as likely wrong, "
                f"ranked by their probability; many are right. Install it: {INSTALL_CLEANLAB}"
            )
        if check.border is None:
            yield f"Borders were not checked: fewer than {MIN_BORDER_IMAGES} images."
    if len(looks.files) < MIN_COMPARED_IMAGES:
        few = f"fewer than {MIN_COMPARED_IMAGES} images"
        yield f"Outliers and odd images were not looked for: {few}."
