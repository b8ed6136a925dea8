"""The result of an export."""

from dataclasses import dataclass
from pathlib import Path

EXACT_INT8 = "int8, exact arithmetic"  # the form whose results do not depend on the processor


@dataclass(frozen=True, slots=True)
class ComparedForm:
    """One form of the model compared with torch in fp32; torch's own row has no comparison.

    `agreement` is the share (0..1) of images with the same top-1 class. `confident_agreement` is
    the share among images whose top probability in torch is at least 0.5 (`None` if there are
    none). `max_difference` and `mean_difference` compare the probabilities of all classes. `top1`
    is the accuracy (`None` without labels). `median_ms` is per image. Size and time are `None` for
    int8 in exact arithmetic, which is not a file.
    """

    name: str
    size_bytes: int | None
    median_ms: float | None
    agreement: float | None = None
    confident_agreement: float | None = None
    max_difference: float | None = None
    mean_difference: float | None = None
    top1: float | None = None


@dataclass(frozen=True, slots=True)
class ComparedMap:
    """A feature map of an exported file compared with torch's, in the worst image.

    `cosine` is the smallest cosine similarity, and `relative_error` the largest length of the
    difference relative to that of torch's map. Both are `None` if the file's map has another shape,
    or values that are not finite.
    """

    name: str
    channels: int
    stride: int
    cosine: float | None = None
    relative_error: float | None = None


@dataclass(frozen=True, slots=True)
class ExportComparison:
    """The comparison of an exported file with torch.

    `image_set` names the images used, and `images` is the number of views of them. `confident` is
    how many views have a top probability of at least 0.5 in torch. `forms` starts with torch.
    `rejection` says why the exported file is too different. With `maps`, there are no predictions.
    """

    image_set: str
    images: int = 0
    confident: int = 0
    forms: tuple[ComparedForm, ...] = ()
    rejection: str | None = None
    is_multi_label: bool = False
    maps: tuple[ComparedMap, ...] = ()


@dataclass(frozen=True, slots=True)
class ExportResult:
    """An exported file and its comparison with torch. `path` is `None` if it was not kept.

    `not_compared` says why there was no comparison.
    """

    target: str
    precision: str
    path: Path | None
    not_compared: str | None
    comparison: ExportComparison
    seconds: float
