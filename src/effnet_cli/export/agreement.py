"""Compares an exported file with its PyTorch source, image by image."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from effnet_cli.engines.base import Crops, Engine, card_probabilities
from effnet_cli.export.records import EXACT_INT8, ComparedForm, ExportComparison
from effnet_cli.export.samples import LabelledCrop
from effnet_cli.models.card import ModelCard
from effnet_cli.models.label_scores import Probabilities

REFERENCE = "torch fp32"
CONFIDENT_DISTANCE = 0.1  # of each probability from the threshold of its label
CONFIDENT = 0.5  # the lowest top probability of a confident prediction


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The limits that an exported file must meet.

    `agreement` is the minimum share of images whose top-1 class is the same as torch's, among
    confident predictions if `only_confident`. `difference` is the maximum difference in a
    probability.
    """

    agreement: float
    difference: float
    only_confident: bool = True


TOLERANCES = {
    "fp32": Tolerance(1.0, 1e-4, only_confident=False),
    "fp16": Tolerance(0.99, 0.03),  # 11 bits of precision
    "bf16": Tolerance(0.95, 0.15),  # 8 bits of precision
    "int8": Tolerance(0.93, 1.0, only_confident=False),  # used without labels
}


@dataclass(slots=True)
class CandidateForm:
    """A form of the model to compare, with its results; `size_bytes` is `None` if it is no file.

    Each `run` adds float64 probabilities [N,C] and the milliseconds per image.
    """

    name: str
    engine: Engine
    size_bytes: int | None
    probabilities: list[npt.NDArray[np.float64]] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)

    def run(self, crops: Crops, card: ModelCard) -> None:
        started = time.perf_counter()
        scores = self.engine(crops).scores
        self.times_ms.append(1000 * (time.perf_counter() - started) / len(crops))
        self.probabilities.append(card_probabilities(card, scores, self.engine.scores_are))


def compare(
    candidates: Sequence[CandidateForm],
    images: Iterable[LabelledCrop],
    *,
    image_set: str,
    batch: int,
    card: ModelCard,
) -> ExportComparison:
    """Run every candidate on all images, `batch` at a time, and compare it with the first one.

    The candidates take turns, so that other load on the machine affects all of them equally.
    """
    labels: list[int | None] = []
    for chunk in split_chunks(images, batch):
        labels += [image.label for image in chunk]
        crops = np.concatenate([image.crop for image in chunk])
        for candidate in candidates:
            candidate.run(crops, card)
    reference = np.concatenate(candidates[0].probabilities)
    return ExportComparison(
        image_set,
        images=len(labels),
        confident=int(_is_confident(reference, card).sum()),
        forms=tuple(_to_form(candidate, reference, labels, card=card) for candidate in candidates),
        is_multi_label=card.label_scores is not None,
    )


def _is_confident(reference: Probabilities, card: ModelCard) -> npt.NDArray[np.bool_]:
    """Return for which images torch is sure: of the class, or of all labels."""
    if card.label_scores is None:
        flags: npt.NDArray[np.bool_] = reference.max(axis=1) >= CONFIDENT
        return flags
    distances = np.abs(reference - np.array(card.label_scores.thresholds)).min(axis=1)
    return np.asarray(distances >= CONFIDENT_DISTANCE)


def _share_same(given: Probabilities, reference: Probabilities, card: ModelCard) -> Probabilities:
    """Return for each image whether the class is the same, or the share of equal labels."""
    if card.label_scores is None:
        return np.asarray(given.argmax(axis=1) == reference.argmax(axis=1), np.float64)
    decide = card.label_scores.decide
    shares: Probabilities = (decide(given) == decide(reference)).mean(axis=1)
    return shares


def split_chunks(images: Iterable[LabelledCrop], size: int) -> Iterator[list[LabelledCrop]]:
    """Yield the images, `size` at a time."""
    iterator = iter(images)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _to_form(
    candidate: CandidateForm,
    reference: Probabilities,
    labels: list[int | None],
    *,
    card: ModelCard,
) -> ComparedForm:
    given = np.concatenate(candidate.probabilities)
    top1 = None if None in labels else float((given.argmax(axis=1) == labels).mean())
    is_file = candidate.size_bytes is not None
    median_ms = float(np.median(candidate.times_ms)) if is_file else None
    form = ComparedForm(candidate.name, candidate.size_bytes, median_ms, top1=top1)
    if candidate.name == REFERENCE:
        return form
    is_same, is_confident = _share_same(given, reference, card), _is_confident(reference, card)
    differences = np.abs(given - reference)
    return replace(
        form,
        agreement=float(is_same.mean()),
        confident_agreement=float(is_same[is_confident].mean()) if is_confident.any() else None,
        max_difference=_finite(differences.max()),
        mean_difference=_finite(differences.mean()),
    )


def _finite(difference: float) -> float:
    """Return a difference that JSON can hold: 1, the largest possible, for NaN or infinity."""
    return float(difference) if np.isfinite(difference) else 1.0


def find_violation(comparison: ExportComparison, *, precision: str, max_drop: float) -> str | None:
    """Return why an exported file must be rejected, or `None` if it is within the tolerance.

    int8 must be within it on this processor and in exact arithmetic.
    """
    reference, *others = comparison.forms
    for form in others:
        if form.name == EXACT_INT8 or form is others[-1]:
            violation = _find_violation(form, reference, precision=precision, max_drop=max_drop)
            if violation is not None:
                return violation
    return None


def _find_violation(
    form: ComparedForm, reference: ComparedForm, *, precision: str, max_drop: float
) -> str | None:
    if precision == "int8" and form.top1 is not None and reference.top1 is not None:
        drop = 100 * (reference.top1 - form.top1)
        if drop <= max_drop:
            return None
        return (
            f"{form.name} lowers top-1 by {drop:.2f} points, from {reference.top1:.2%} to "
            f"{form.top1:.2%}; --max-drop allows {max_drop:g}"
        )
    tolerance = TOLERANCES[precision]
    only_confident = tolerance.only_confident and form.confident_agreement is not None
    agreement = form.confident_agreement if only_confident else form.agreement
    if agreement is None or agreement < tolerance.agreement:
        images = "images that torch is confident about" if only_confident else "images"
        return (
            f"{form.name} agrees with torch on {agreement or 0:.1%} of the {images}; "
            f"the limit is {tolerance.agreement:.0%}"
        )
    if form.max_difference is None or form.max_difference > tolerance.difference:
        return (
            f"a probability of {form.name} differs by {form.max_difference:.1e} from torch; "
            f"the limit is {tolerance.difference:g}"
        )
    return None
