"""Checks a benchmark's options before anything is started."""

from itertools import islice

from effnet_cli.bench import prepare
from effnet_cli.images.finder import Finder
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.samples import sample_images_dir
from effnet_cli.models.hub_repo import parse_repo
from effnet_cli.models.variants import DEFAULT_VARIANT, find_variant
from effnet_cli.options import BenchTask
from effnet_cli.system.errors import ImageError, UsageError
from effnet_cli.system.reporter import Reporter

MAX_BENCH_IMAGES = 1_000  # the most images to use from a folder, in mode end-to-end


def check(task: BenchTask) -> None:
    """Raise UsageError for a missing file or model, or incompatible options."""
    for name in task.against:
        prepare.check_torchvision(name)
    for path in task.models:
        if parse_repo(path) is None and not path.exists():
            raise UsageError(f"No such file: {str(path)!r}.", "Check the path.")
    if task.mode == "train" and (task.models or set(task.engines) - {"torch"}):
        raise UsageError(
            "--mode train only works with variants on the torch engine.",
            "Omit --model and --engine.",
        )
    if task.mode == "end-to-end" and task.batch_sizes not in ((), (1,)):
        raise UsageError("--mode end-to-end measures one image at a time.", "Omit --batch-size.")
    if task.image_folder is not None:
        if task.mode != "end-to-end":
            raise UsageError("--images requires --mode end-to-end.", "Add --mode end-to-end.")
        if not task.image_folder.exists():
            raise UsageError(f"No such folder: {str(task.image_folder)!r}.", "Check the path.")


def has_only_files(task: BenchTask) -> bool:
    """Return whether only model files are measured, no variants or torchvision models."""
    return bool(task.models) and not task.variants and not task.against


def images(task: BenchTask, reporter: Reporter) -> tuple[str, ...]:
    """Return the paths of readable images for mode end-to-end; UsageError if there are none."""
    folder = str(task.image_folder or sample_images_dir())
    found = (f.source for f in Finder([folder]) if isinstance(f.source, str) and f.error is None)
    paths = list(islice(found, MAX_BENCH_IMAGES))
    if not paths:
        raise UsageError(f"No images found in {folder!r}.", "Choose another --images folder.")
    loader, opened = ImageLoader(find_variant(DEFAULT_VARIANT).preprocessing, task.images), []
    for done, path in enumerate(paths, 1):
        try:
            loader.open(path)
        except ImageError as error:
            reason = error.message
        else:
            opened.append(path)
        reporter.progress("Opening", done, len(paths))
    if not opened:
        raise UsageError(
            f"None of the {len(paths)} images in {folder!r} can be opened: {reason}",
            "Choose another --images folder.",
        )
    return tuple(opened)
