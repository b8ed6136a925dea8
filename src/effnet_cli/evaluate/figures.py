"""The figures of an evaluation: their names, formats and limits.

A new figure is a field of `Evaluation`, a line in `run` that computes it, and a row here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from effnet_cli.evaluate.records import Evaluation


@dataclass(frozen=True, slots=True)
class Figure:
    """A field `name` of `Evaluation`; `format` is a format specification.

    `can_limit`: --fail-under accepts it, as it is a share (0..1) and higher is better. `needs` says
    when it is not `None`.
    """

    name: str
    label: str
    format: str
    can_limit: bool = False
    needs: str = ""


FIGURES = (
    Figure("top1", "Top-1 accuracy", ".1%", can_limit=True),
    Figure("top5", "Top-5 accuracy", ".1%", can_limit=True),
    Figure("balanced_accuracy", "Balanced accuracy", ".1%", can_limit=True),
    Figure("macro_f1", "Macro F1", ".3f", can_limit=True),
    Figure("auroc", "AUROC", ".3f", can_limit=True, needs="two classes, both with images"),
    Figure("loss", "Log loss", ".3f"),
    Figure("ece", "Expected calibration error", ".1%"),
)
LIMITS = {figure.name: figure for figure in FIGURES if figure.can_limit}


def check_limits(evaluation: Evaluation, limits: Mapping[str, float]) -> Iterator[str]:
    """The limits that are not met: `top1 is 0.8000, below 0.9`."""
    for name, limit in limits.items():
        value = getattr(evaluation, name)
        if value is None:
            yield f"{name} needs {LIMITS[name].needs}"
        elif value < limit:
            yield f"{name} is {value:.4f}, below {limit:g}"
