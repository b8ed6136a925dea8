"""The Python interface: a model that classifies images."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from effnet_cli.engines.base import Crops, ModelOutputs, Scores, scores_of
from effnet_cli.engines.registry import plan_engine
from effnet_cli.images.finder import Finder, ImageInput
from effnet_cli.images.loader import ImageLoader
from effnet_cli.images.preprocessing import Preprocessing
from effnet_cli.images.sources import ImageSource
from effnet_cli.models.variants import is_variant
from effnet_cli.models.weights import expected_kind, resolve_model
from effnet_cli.options import (
    DICOM_FIELDS,
    EngineOptions,
    ImageOptions,
    ModelOptions,
    PredictOptions,
)
from effnet_cli.predict.pipeline import Finish, Pipeline, ScoredImage, load_in_background
from effnet_cli.predict.ranking import new_ranking
from effnet_cli.predict.records import ImageResult
from effnet_cli.system.errors import EffnetError, ImageError, UsageError
from effnet_cli.system.fields import Options
from effnet_cli.system.reporter import SILENT, Reporter

# A path, the bytes of an image file, a Pillow image, or uint8 [H,W], [H,W,3] or [H,W,4].
ImageLike = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]
ONE_IMAGE = (str, Path, bytes, Image.Image, np.ndarray)
Result = TypeVar("Result")
Group = TypeVar("Group", bound=Options)


class Classifier:
    """Classifies images with one model, which is loaded when it is first used.

    Examples:
        >>> Classifier("lite0")("cat.jpg").predictions[0].label
        'tiger cat'

    Args:
        model: the name of a variant, the path of a model or run, or all of `ModelOptions`.
        engine: device, engine and precision.
        images: how images are decoded and cropped.
        options: how many predictions, batch size and threads.
        reporter: receives notes about downloads and compilation.

    Attributes:
        card: class names (in the order of `Prediction.index`), preprocessing and temperature.
        name: the variant, or the path of the model file.
        sha256: the SHA-256 of the weights file, in hexadecimal.
        engine: the name of the engine.
        precision: the precision of the computation.
        scores_are: whether `scores` yields `logits` or `probabilities`.
        operating_point: the one that `options` name, or `None`.

    Raises:
        UsageError: unknown variant, model file, device or engine, or invalid options.
        EffnetError: weights or engine are not available.
    """

    def __init__(
        self,
        model: str | Path | ModelOptions = ModelOptions(),
        engine: EngineOptions = EngineOptions(),
        images: ImageOptions = ImageOptions(),
        options: PredictOptions = PredictOptions(),
        reporter: Reporter = SILENT,
    ) -> None:
        model = _as_options(model)
        _check(engine, EngineOptions)
        _check(images, ImageOptions)
        _check(options, PredictOptions)
        # refuse an impossible combination before anything is downloaded
        self._plan = plan_engine(engine, expected_kind(model))
        self._model = resolve_model(model, reporter)
        self.card, self.sha256 = self._model.card, self._model.sha256
        self.name = str(model.model or self._model.variant.name)
        self.engine, self.precision = self._plan.engine, self.card.precision or self._plan.precision
        self.scores_are = scores_of(self.card)
        self._options, self._reporter, self._is_offline = options, reporter, model.offline
        self._ranking = new_ranking(self.card, options, images)
        self.operating_point = self._ranking.point
        self._load = _new_loader(self.card.preprocessing, images)
        self._score: Callable[[Crops], ModelOutputs] | None = None
        self._loaded_in: int | None = None  # the process
        self._note_training_options(images)

    def __call__(self, image: ImageLike) -> ImageResult:
        """Classify one image; if it cannot be decoded, the result has an `error`.

        Raises:
            EffnetError: the engine cannot be loaded.
            TypeError: `image` is not an image.
        """
        return next(self.predict([_as_input(image)]))

    def predict(
        self, images: ImageLike | Iterable[ImageLike | ImageInput], *, has_lookahead: bool = True
    ) -> Iterator[ImageResult]:
        """Classify images, folders (with their subfolders), patterns and URLs.

        Results come in input order, as soon as they are known, and memory use stays constant.

        Args:
            images: one input or many.
            has_lookahead: read one input per thread before the first result, so that no more
                threads start than there are images. Use `False` for slow streams.

        Raises:
            EffnetError: the engine cannot be loaded or used.
            TypeError: an input is not an image.
        """
        return self._run(self._find(images), self._ranking, has_lookahead)

    def scores(self, images: Iterable[ImageInput]) -> Iterator[Scores | ImageError]:
        """Yield each image's scores, float32 [C], or its error, in order; raises like `predict`."""

        def finish(_: ImageInput, scored: ScoredImage | ImageError) -> Scores | ImageError:
            return scored if isinstance(scored, ImageError) else scored.scores

        return self.run(images, finish)

    def run(self, images: Iterable[ImageInput], finish: Finish[Result]) -> Iterator[Result]:
        """Yield `finish(image, scored)` for each image, in order; raises like `predict`.

        `finish` gets the crops, scores and features, or the error; it runs in the worker threads.
        """
        return self._run(iter(images), finish)

    def load_crop(self, path: str) -> Crops | None:
        """Load what the model sees of an image, uint8 [H,W,3]; `None` if it cannot be decoded."""
        try:
            crop: Crops = self._load(path)[0]
        except ImageError:
            return None
        return crop

    def _note_training_options(self, images: ImageOptions) -> None:
        """Say if DICOM images looked different in training, which no file shows."""
        options = self.card.options
        trained = ImageOptions(**{name: options[name] for name in DICOM_FIELDS if name in options})
        flags = trained.dicom_flags
        if flags and flags != images.dicom_flags:
            self._reporter.note(
                f"{self.name} was trained with {flags}; add that if these are DICOM images."
            )

    def _find(self, images: ImageLike | Iterable[ImageLike | ImageInput]) -> Iterator[ImageInput]:
        for image in [images] if isinstance(images, ONE_IMAGE) else images:
            if isinstance(image, str | Path):
                yield from Finder([str(image)], offline=self._is_offline)
            else:
                yield image if isinstance(image, ImageInput) else _as_input(image)

    def _run(
        self, inputs: Iterator[ImageInput], finish: Finish[Result], has_lookahead: bool = True
    ) -> Iterator[Result]:
        workers = self._options.workers or self._plan.workers
        if has_lookahead:
            first = list(itertools.islice(inputs, workers))
            workers = max(1, min(workers, len(first)))
            inputs = itertools.chain(first, inputs)
        if self._loaded_in not in (None, os.getpid()):
            raise EffnetError(
                "This Classifier was used before the process was forked, and its threads are gone.",
                "Create it in the child process.",
            )
        if self._score is None:
            self._loaded_in = os.getpid()
            self._score = load_in_background(
                self._plan, self._model, workers, reporter=self._reporter
            )
        batch_size = self._options.batch_size or self._plan.batch_size
        pipeline = Pipeline(self._score, self._load, batch_size=batch_size, workers=workers)
        return pipeline.run(inputs, finish)


def _as_options(model: object) -> ModelOptions:
    """Convert what `Classifier` accepts as a model; a text is a path unless it names a variant."""
    if isinstance(model, str):
        return ModelOptions(variant=model) if is_variant(model) else ModelOptions.parse(model)
    return ModelOptions(model=model) if isinstance(model, Path) else _check(model, ModelOptions)


def _check(options: object, kind: type[Group]) -> Group:
    if isinstance(options, kind):
        return options
    name = kind.__name__
    raise UsageError(
        f"Expected {name}, got {options!r:.100}.",
        f"Use effnet_cli.options.{name}.",
    )


def _new_loader(
    preprocessing: Preprocessing, options: ImageOptions
) -> Callable[[ImageSource], Crops]:
    if options.isolate or options.timeout_s is not None:
        from effnet_cli.images.sandbox import SandboxedLoader  # takes 10 ms, and few runs need it

        return SandboxedLoader(preprocessing, options).load
    return ImageLoader(preprocessing, options).load


def _as_input(image: ImageLike) -> ImageInput:
    """Convert one image; a path must name a file here, unlike in `Classifier.predict`."""
    if isinstance(image, str | Path):
        return ImageInput(str(image), str(image))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim < 2 or image.shape[2:] not in ((), (3,), (4,)):
            raise TypeError(
                "Expected a uint8 array of shape [H,W], [H,W,3] or [H,W,4], "
                f"got {image.dtype} of shape {list(image.shape)}."
            )
        image = Image.fromarray(image)
    if isinstance(image, bytes | Image.Image):
        return ImageInput("-", image)
    raise TypeError(
        f"Expected a path, bytes, a Pillow image or a NumPy array, got {type(image).__name__}."
    )
