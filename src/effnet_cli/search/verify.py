"""Decide whether two images show the same."""

from dataclasses import dataclass, replace

import numpy as np

from effnet_cli.embed.embedder import Embedder
from effnet_cli.options import EmbedOptions, ImageOptions, ModelOptions, VerifyPairTask
from effnet_cli.search.calibrate import load_calibration, read_calibration
from effnet_cli.search.verification import PairCalibration
from effnet_cli.system.reporter import Reporter


@dataclass(frozen=True, slots=True)
class PairDecision:
    """How alike two images are; `is_same` is `None` without a calibration."""

    first: str
    second: str
    similarity: float
    is_same: bool | None
    calibration: PairCalibration | None


def verify(task: VerifyPairTask, reporter: Reporter) -> PairDecision:
    """Compare two images.

    Raises:
        ImageError: one cannot be decoded.
        UsageError: the calibration cannot be read, or is for another model.
        EffnetError: the engine cannot be used.
    """
    calibration, model, options, images = None, task.model, task.options, task.images
    if task.calibration is not None:
        source = read_calibration(task.calibration).source
        if model == ModelOptions(offline=model.offline):
            model = replace(ModelOptions.parse(source.model), offline=model.offline)
        if options.pool is None:
            options = EmbedOptions(options.batch_size, options.workers, pool=source.pool)
        if images == ImageOptions():
            images = ImageOptions(**source.settings)
    embedder = Embedder(model, task.engine, images=images, options=options, reporter=reporter)
    if task.calibration is not None:
        calibration = load_calibration(task.calibration, embedder.source)
    one, other = embedder(task.first), embedder(task.second)
    similarity = calibration.measure(one, other) if calibration else float(np.dot(one, other))
    is_same = None if calibration is None else similarity >= calibration.threshold
    return PairDecision(
        task.first, task.second, similarity, is_same=is_same, calibration=calibration
    )
