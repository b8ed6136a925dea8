"""The HTML gallery: images with their predictions, and filters that need no script."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from effnet_cli.output.html import PAGES, base64_text
from effnet_cli.predict.gallery import UNKNOWN_BAND, Gallery, GalleryImage
from effnet_cli.predict.ranking import UNKNOWN
from effnet_cli.system.text import pluralize

# The filters that match each image: the index of its class filter (`None` if unknown) and its band.
Marks = Sequence[tuple[int | None, int]]
# A filter: heading, name of the inputs, and choices (mark, label, number of images).
Filter = tuple[str, str, list[tuple[str, str, int]]]

BAND_LABELS = ("above 90%", "50–90%", "below 50%", UNKNOWN)
MAX_FILTER_CLASSES = 12
OTHERS = "others"
FREQUENT = 3  # classes in the summary
KIND_LABELS: Mapping[str, str] = {
    "empty": "Empty files",
    "truncated": "Truncated or damaged",
    "not_an_image": "Not an image",
    "unsupported_format": "Unsupported format",
    "too_large": "Too large",
    "unreadable": "Not readable",
    "not_a_file": "Not a file",
    "missing": "Not found",
    "timeout": "Timed out",
    "crashed": "Crashed the decoder",
}
MAX_OPEN_FAILURES = 12  # a kind of error with more failures is folded at first


def gallery_page(gallery: Gallery) -> str:
    """Return the page: a summary, the images, and what failed."""
    classes, marks = _mark(gallery.images)
    return PAGES.get_template("gallery.html").render(
        title="Predictions",
        summary=list(_summarize(gallery)),
        shares=list(_shares(gallery)),
        filters=list(_filters(classes, marks)),
        empty=_empty_choices(marks),
        images=list(_figures(gallery.images, marks)),
        has_overlays=any(image.overlay for image in gallery.images),
        succeeded=gallery.succeeded,
        failed=list(_failures(gallery)),
        settings=[("model", gallery.model), ("engine", gallery.engine), *gallery.settings],
    )


def _summarize(gallery: Gallery) -> Iterator[str]:
    failed = gallery.failed.total()
    total, unknown = gallery.succeeded + failed, gallery.bands[UNKNOWN_BAND]
    if not total:
        yield "No images."
        return
    unknown_text = f", {unknown:,} {UNKNOWN}" if unknown else ""
    yield f"{pluralize(total, 'image')}{unknown_text}, {failed or 'none'} failed."
    if gallery.classes:
        yield _describe_classes(gallery)
    if gallery.succeeded:
        yield f"Classified by {gallery.model} on {gallery.engine}."


def _describe_classes(gallery: Gallery) -> str:
    images, number = gallery.classes.total(), len(gallery.classes)
    if images == 1:
        return f"Most likely: {next(iter(gallery.classes))}."
    if number == images:
        return f"{number:,} different classes, each once."
    frequent = gallery.classes.most_common(FREQUENT)
    shares = ", ".join(f"{label} ({n / gallery.succeeded:.0%})" for label, n in frequent)
    return f"Most frequent: {shares}; {pluralize(number, 'class', 'classes')} in total."


def _shares(gallery: Gallery) -> Iterator[tuple[str, str, int]]:
    """Yield the mark, label and number of images of each band, then of the failed images."""
    for band, number in sorted(gallery.bands.items()):
        yield f"s{band}", BAND_LABELS[band], number
    if gallery.failed:
        yield "bad", "failed", gallery.failed.total()


def _mark(images: Sequence[GalleryImage]) -> tuple[list[str], Marks]:
    """Return the classes that get a filter, most frequent first, and each image's filters."""
    known = [one.predictions[0].label for one in images if one.band < UNKNOWN_BAND]
    classes = [label for label, _ in Counter(known).most_common()]
    if len(classes) > MAX_FILTER_CLASSES:
        del classes[MAX_FILTER_CLASSES - 1 :]
    marks: list[tuple[int | None, int]] = []
    for one in images:
        label = one.predictions[0].label
        mark = classes.index(label) if label in classes else len(classes)
        marks.append((None if one.band == UNKNOWN_BAND else mark, one.band))
    return classes, marks


def _filters(classes: Sequence[str], marks: Marks) -> Iterator[Filter]:
    """Yield the filters that have more than one non-empty choice, with those choices."""
    by_class, by_band = Counter(mark for mark, _ in marks), Counter(band for _, band in marks)
    for heading, name, mark, labels, counts in (
        ("Class", "class", "c", (*classes, OTHERS), by_class),
        ("Confidence", "band", "s", BAND_LABELS, by_band),
    ):
        choices = [(f"{mark}{n}", label, counts[n]) for n, label in enumerate(labels) if counts[n]]
        if len(choices) > 1:
            yield heading, name, choices


def _empty_choices(marks: Marks) -> list[tuple[str, str]]:
    """Return the pairs of class and band choices that match no image."""
    classes = {mark for mark, _ in marks if mark is not None}
    bands = {band for _, band in marks}
    return [(f"c{c}", f"s{s}") for c, s in sorted(set(product(classes, bands)) - set(marks))]


def _figures(images: Sequence[GalleryImage], marks: Marks) -> Iterator[dict[str, Any]]:
    order = sorted(range(len(images)), key=lambda n: -images[n].predictions[0].probability)
    places = {number: place for place, number in enumerate(order)}
    for number, (image, (class_mark, band)) in enumerate(zip(images, marks, strict=True)):
        folder, name = _split_path(image.path)
        best, *others = [(one.label, f"{one.probability:.1%}") for one in image.predictions]
        yield {
            "marks": f"s{band}" if class_mark is None else f"c{class_mark} s{band}",
            "place": places[number],
            "image": base64_text(image.image),
            "overlay": base64_text(image.overlay),
            "best": best,
            "others": others,
            "folder": folder,
            "name": name,
        }


def _split_path(path: str) -> tuple[str, str]:
    """Split a path into its folder, with the last separator, and its name."""
    end = max(path.rfind("/"), path.rfind("\\")) + 1
    return (path[:end], path[end:]) if end < len(path) else ("", path)


def _failures(gallery: Gallery) -> Iterator[dict[str, Any]]:
    for kind, number in gallery.failed.most_common():
        messages = gallery.failed_paths[kind]
        yield {
            "name": KIND_LABELS.get(kind, kind),
            "number": number,
            "is_open": number <= MAX_OPEN_FAILURES,
            "messages": list(messages.items()),
            "not_shown": number - sum(map(len, messages.values())),
        }
