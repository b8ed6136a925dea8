"""What a person wishes to be measured: refused before anything is started, where nothing can
fulfil it.
"""

from collections.abc import Iterable

from effnet_cli.bench import prepare
from effnet_cli.engines import ENGINES
from effnet_cli.images.finder import Finder
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.samples import sample_images_dir
from effnet_cli.models.variants import DEFAULT_VARIANT, find_variant
from effnet_cli.options import BenchTask
from effnet_cli.system.errors import ImageError, UsageError
from effnet_cli.system.reporter import Reporter

MAX_IMAGES = 1_000  # of a folder, end to end


def check(task: BenchTask) -> None:
    """Refuse what is wrong on every machine.

    Raises:
        UsageError: no such file, folder or network of torchvision, or options that go not together.
    """
    for name in task.against:
        prepare.check_peer(name)
    for path in task.models:
        if not path.exists():
            raise UsageError(f"There is no file {str(path)!r}.", "Check the path.")
    if task.mode == "train" and (task.models or set(task.engines) - {"torch"}):
        raise UsageError(
            "--mode train measures the training step of variants, which runs on torch.",
            "Leave out --model and --engine.",
        )
    if task.mode == "end-to-end" and task.batch_sizes not in ((), (1,)):
        raise UsageError(
            "--mode end-to-end follows one image at a time.", "Leave out --batch-size."
        )
    if task.image_folder is not None and task.mode != "end-to-end":
        raise UsageError("--images are for --mode end-to-end.", "Add --mode end-to-end.")
    if task.image_folder is not None and not task.image_folder.exists():
        raise UsageError(f"There is no folder {str(task.image_folder)!r}.", "Check the path.")
    _check_precisions(task)


def has_models_alone(task: BenchTask) -> bool:
    """Whether nothing but files is measured."""
    return bool(task.models) and not task.variants and not task.against


def _check_precisions(task: BenchTask) -> None:
    """Refuse what no engine computes in on any device."""
    computed = {p for row in ENGINES.values() for able in row.precisions.values() for p in able}
    for precision in task.precisions:
        if precision not in computed and not has_models_alone(task):
            raise UsageError(
                f"Only networks that were exported as {precision} run in {precision}.",
                f"Measure one with --model; `effnet export --quantize {precision}` makes it.",
            )


def images(task: BenchTask, reporter: Reporter) -> tuple[str, ...]:
    """The paths of the images for end-to-end: those that can be opened.

    Raises:
        UsageError: there is none.
    """
    folder = task.image_folder or sample_images_dir()
    found: Iterable[str] = (
        f.source for f in Finder([str(folder)]) if isinstance(f.source, str) and f.error is None
    )
    paths = tuple(path for _, path in zip(range(MAX_IMAGES), found, strict=False))
    if not paths:
        raise UsageError(f"There is no image in {str(folder)!r}.", "Name another --images.")
    loader, kept = ImageLoader(find_variant(DEFAULT_VARIANT).preprocessing, task.images), []
    for done, path in enumerate(paths, 1):
        try:
            loader.open(path)
        except ImageError as error:
            fault = error.message
        else:
            kept.append(path)
        reporter.progress("Opening", done, len(paths))
    if not kept:
        raise UsageError(
            f"None of {len(paths)} images in {str(folder)!r} can be opened: {fault}",
            "Name another --images.",
        )
    return tuple(kept)
