"""The page of `effnet predict`: images with their answers, and filters that need no script."""

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from markupsafe import Markup

from effnet_cli.output.html import PAGES
from effnet_cli.predict.gallery import NO_CLASS, Failures, Gallery, GalleryImage
from effnet_cli.predict.ranking import UNKNOWN
from effnet_cli.predict.records import Prediction

# The places of an image's filters: of its class (`None`: it has no class) and of its certainty.
Marks = Sequence[tuple[int | None, int]]
# The heading, the name of the inputs, and the choices: mark, name and number of images.
Filter = tuple[str, str, list[tuple[str, str, int]]]

STEP_NAMES = ("above 90%", "50–90%", "below 50%")
MAX_CLASSES = 12  # that have a filter of their own
OTHERS = "others"
FREQUENT = 3  # classes in the answer
KIND_NAMES: Mapping[str, str] = {
    "empty": "Empty files",
    "truncated": "Cut off or damaged",
    "not_an_image": "Not an image",
    "unsupported_format": "In a format not known here",
    "too_large": "Too large",
    "unreadable": "Not readable",
    "not_a_file": "Not a file",
    "missing": "Not there",
    "timeout": "Took too long",
    "crashed": "Crashed the decoder",
}
OPEN_UP_TO = 12  # failures of a kind that are unfolded at once


def gallery_page(gallery: Gallery) -> str:
    """What was on the images: the answer in words, the images, and what failed."""
    groups = _groups(gallery.images)
    marks = [(_group(one, groups), one.step) for one in gallery.images]
    return PAGES.get_template("gallery.html").render(
        title="Predictions",
        summary=list(_answer(gallery)),
        shares=list(_shares(gallery)),
        filters=_filters(gallery.images, groups, marks),
        empty=_empty(marks),
        images=list(_shown(gallery.images, marks)),
        has_overlays=any(one.overlay for one in gallery.images),
        classified=gallery.answered,
        failed=[_failure(kind, found) for kind, found in _by_number(gallery.failed)],
        choices=[("model", gallery.model), ("engine", gallery.engine), *gallery.choices],
    )


# --- the answer in words ------------------------------------------------------------------------


def _answer(gallery: Gallery) -> Iterator[str]:
    failed = sum(one.number for one in gallery.failed.values())
    total = gallery.answered + failed
    nameless = gallery.steps[NO_CLASS]
    yield _counted_line(total, failed, f", {nameless:,} {UNKNOWN}" if nameless else "")
    if gallery.classes:
        yield _frequent_line(gallery)
    if gallery.answered:
        yield f"Answered by {gallery.model} on {gallery.engine}."


def _counted_line(total: int, failed: int, nameless: str) -> str:
    if not total:
        return "No image was given."
    words = f"{total:,} image{'' if total == 1 else 's'}{nameless}"
    if failed == total:
        return f"{words}: {'it' if total == 1 else 'all'} failed."
    return f"{words}, {failed:,} failed." if failed else f"{words}, none failed."


def _frequent_line(gallery: Gallery) -> str:
    named, number = gallery.classes.total(), len(gallery.classes)
    if named == 1:
        return f"It is most likely: {next(iter(gallery.classes))}."
    if number == named:
        return f"{number:,} different classes, each once."
    frequent = gallery.classes.most_common(FREQUENT)
    shares = ", ".join(f"{label} ({n / gallery.answered:.0%})" for label, n in frequent)
    return f"Most often: {shares}; {number:,} different class{'' if number == 1 else 'es'}."


def _shares(gallery: Gallery) -> Iterator[tuple[str, str, int]]:
    """How many images each step of certainty has, and how many failed: mark, name and number."""
    for step, number in sorted(gallery.steps.items()):
        yield f"s{step}", _step_name(step), number
    if gallery.failed:
        yield "bad", "failed", sum(one.number for one in gallery.failed.values())


# --- filters ------------------------------------------------------------------------------------


def _groups(images: Sequence[GalleryImage]) -> list[str]:
    """The classes that have a filter, most frequent first."""
    counts = Counter(one.answers[0].label for one in images if one.step < NO_CLASS)
    names = [label for label, _ in counts.most_common()]
    return names if len(names) <= MAX_CLASSES else names[: MAX_CLASSES - 1]


def _group(image: GalleryImage, groups: Sequence[str]) -> int | None:
    """The place of its filter: its class, or the others; `None` for what has no class."""
    if image.step == NO_CLASS:
        return None
    label = image.answers[0].label
    return groups.index(label) if label in groups else len(groups)


def _step_name(step: int) -> str:
    return STEP_NAMES[step] if step < NO_CLASS else UNKNOWN


def _filters(images: Sequence[GalleryImage], groups: Sequence[str], marks: Marks) -> list[Filter]:
    """Each filter's heading and choices: the mark of the images it leaves, its name, how many."""
    by_group = Counter(group for group, _ in marks if group is not None)
    classes = [(f"c{n}", name, by_group[n]) for n, name in enumerate((*groups, OTHERS))]
    by_step = Counter(step for _, step in marks)
    steps = [(f"s{n}", _step_name(n), by_step[n]) for n in range(NO_CLASS + 1)]
    filters = [("Class", "class", classes), ("Certainty", "step", steps)]
    used = [(head, name, [one for one in choices if one[2]]) for head, name, choices in filters]
    return [one for one in used if len(one[2]) > 1]


def _empty(marks: Marks) -> list[tuple[str, str]]:
    """Pairs of choices that leave no image."""
    groups = {group for group, _ in marks if group is not None}
    steps = {step for _, step in marks}
    return [(f"c{g}", f"s{s}") for g, s in sorted(set(product(groups, steps)) - set(marks))]


# --- images and failures ----------------------------------------------------------------------


def _shown(images: Sequence[GalleryImage], marks: Marks) -> Iterator[dict[str, Any]]:
    surest = sorted(range(len(images)), key=lambda n: -images[n].answers[0].probability)
    places = {number: place for place, number in enumerate(surest)}
    for number, (one, (group, step)) in enumerate(zip(images, marks, strict=True)):
        folder, name = _parted(one.path)
        best, *others = [_bar(answer) for answer in one.answers]
        yield {
            "marks": f"s{step}" if group is None else f"c{group} s{step}",
            "place": places[number],
            "image": _base64(one.image),
            "overlay": _base64(one.overlay),
            "best": best,
            "others": others,
            "folder": folder,
            "name": name,
        }


def _bar(answer: Prediction) -> tuple[str, str]:
    """The class and the share of an answer."""
    return answer.label, f"{answer.probability:.1%}"


def _parted(path: str) -> tuple[str, str]:
    """The folder, with its last separator, and the name."""
    end = max(path.rfind("/"), path.rfind("\\")) + 1
    return (path[:end], path[end:]) if end < len(path) else ("", path)


def _base64(content: bytes | None) -> Markup:
    """JPEG as text; it holds letters, digits, "+", "/" and "=" only, and needs no escapes."""
    return Markup(base64.b64encode(content or b"").decode())  # noqa: S704


def _by_number(failed: Mapping[str, Failures]) -> list[tuple[str, Failures]]:
    return sorted(failed.items(), key=lambda one: -one[1].number)


def _failure(kind: str, found: Failures) -> dict[str, Any]:
    return {
        "name": KIND_NAMES.get(kind, kind),
        "number": found.number,
        "is_open": found.number <= OPEN_UP_TO,
        "messages": list(found.paths.items()),
        "not_shown": found.number - sum(map(len, found.paths.values())),
    }
