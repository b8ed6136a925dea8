"""Whether an exported network answers as its source: the same images through both."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effnet_cli.engines.base import Engine, to_probabilities
from effnet_cli.export.samples import LabelledCrop

CONFIDENT = 0.5  # a top probability from which an answer is clear


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What an export must reach: the share of images with the same top-1 (0..1), of all or of
    those with a clear answer, and the largest difference of a probability.
    """

    agreement: float
    difference: float
    is_of_clear: bool = True


TOLERANCES = {
    "fp32": Tolerance(1.0, 1e-4, is_of_clear=False),
    "fp16": Tolerance(0.99, 0.03),  # 11 bits of precision
    "bf16": Tolerance(0.95, 0.15),  # 8 bits of precision
    "int8": Tolerance(0.95, 1.0),  # where labels tell nothing better
}


@dataclass(frozen=True, slots=True)
class Form:
    """One form of the network beside torch in float32, whose row has no comparison.

    `agreement` is the share of images with the same top-1, `confident_agreement` that among those
    where torch's top probability is at least 0.5 (`None` if there are none). `max_difference` and
    `mean_difference` are of the probabilities of all classes. `top1` is the share of right answers,
    `None` without labels. `median_ms` is for one image.
    """

    name: str
    size_bytes: int
    median_ms: float
    agreement: float | None = None
    confident_agreement: float | None = None
    max_difference: float | None = None
    mean_difference: float | None = None
    top1: float | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """The forms that were compared, the reference first, and on how many images; `confident` of
    them have a clear answer.
    """

    forms: tuple[Form, ...]
    images: int
    confident: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A form to compare: its name, engine and size."""

    name: str
    engine: Engine
    size_bytes: int


def compared(
    candidates: Sequence[Candidate],
    images: Iterable[LabelledCrop],
    batch: int,
    temperature: float,
) -> Compared:
    """Ask every candidate about all images, `batch` at a time; the first one is the reference.

    Their calls take turns, so that a busy moment of the machine hits all of them.
    """
    answers: list[list[npt.NDArray[np.float64]]] = [[] for _ in candidates]
    times: list[list[float]] = [[] for _ in candidates]
    labels: list[int | None] = []
    for chunk in _chunks(images, batch):
        crops = np.concatenate([looked.crop for looked in chunk])
        labels += [looked.label for looked in chunk]
        for number, candidate in enumerate(candidates):
            started = time.perf_counter()
            scores = candidate.engine(crops)
            times[number].append(1000 * (time.perf_counter() - started) / len(chunk))
            answers[number].append(
                to_probabilities(scores, candidate.engine.scores_are, temperature)
            )
    known = None if None in labels else np.array(labels)
    probabilities = [np.concatenate(rows) for rows in answers]
    confident = probabilities[0].max(axis=1) >= CONFIDENT
    forms = tuple(
        _form(candidate, float(np.median(ms)), given, probabilities[0], known)
        for candidate, ms, given in zip(candidates, times, probabilities, strict=True)
    )
    return Compared(forms, len(labels), int(confident.sum()))


def _chunks(images: Iterable[LabelledCrop], size: int) -> Iterable[list[LabelledCrop]]:
    chunk: list[LabelledCrop] = []
    for looked in images:
        chunk.append(looked)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _form(
    candidate: Candidate,
    median_ms: float,
    given: npt.NDArray[np.float64],
    wanted: npt.NDArray[np.float64],
    labels: npt.NDArray[np.intp] | None,
) -> Form:
    top1 = None if labels is None else float((given.argmax(axis=1) == labels).mean())
    if given is wanted:
        return Form(candidate.name, candidate.size_bytes, median_ms, top1=top1)
    same = given.argmax(axis=1) == wanted.argmax(axis=1)
    confident = wanted.max(axis=1) >= CONFIDENT
    differences = np.abs(given - wanted)
    return Form(
        candidate.name,
        candidate.size_bytes,
        median_ms,
        agreement=float(same.mean()),
        confident_agreement=float(same[confident].mean()) if confident.any() else None,
        max_difference=_finite(differences.max()),
        mean_difference=_finite(differences.mean()),
        top1=top1,
    )


def _finite(value: float) -> float:
    """A number for JSON; what is NaN differs by all there is."""
    return float(value) if np.isfinite(value) else 1.0


def objection(form: Form, reference: Form, precision: str, max_drop: float) -> str | None:
    """Why an exported form is refused, in words; `None` if it holds."""
    if precision == "int8" and form.top1 is not None and reference.top1 is not None:
        drop = 100 * (reference.top1 - form.top1)
        if drop <= max_drop:
            return None
        return (
            f"int8 lowers top-1 by {drop:.2f} points, from {reference.top1:.2%} to "
            f"{form.top1:.2%}; {max_drop:g} are allowed"
        )
    return _too_different(form, TOLERANCES[precision])


def _too_different(form: Form, tolerance: Tolerance) -> str | None:
    is_of_clear = tolerance.is_of_clear and form.confident_agreement is not None
    share = form.confident_agreement if is_of_clear else form.agreement
    if share is None or share < tolerance.agreement:
        return (
            f"{form.name} has the same top-1 on {share or 0:.1%} of the "
            f"{'clear ' if is_of_clear else ''}images; {tolerance.agreement:.0%} are asked for"
        )
    if form.max_difference is None or form.max_difference > tolerance.difference:
        return (
            f"a probability of {form.name} differs by {form.max_difference:.1e}; "
            f"{tolerance.difference:.0e} is allowed"
        )
    return None
