"""The Python interface: a model that classifies images."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from effnet_cli.engines.base import Crops, Scores, scores_of
from effnet_cli.engines.registry import plan_engine
from effnet_cli.images.finder import ImageInput
from effnet_cli.models.weights import expected_kind, resolve_model
from effnet_cli.options import (
    DICOM_FIELDS,
    EngineOptions,
    ImageOptions,
    ModelOptions,
    PredictOptions,
)
from effnet_cli.predict.inputs import (
    ImageLike,
    as_input,
    as_model_options,
    check_options,
    find_inputs,
)
from effnet_cli.predict.pipeline import Finish, ScoredImage
from effnet_cli.predict.ranking import new_ranking
from effnet_cli.predict.records import ImageResult
from effnet_cli.predict.scorer import Scorer
from effnet_cli.system.errors import ImageError
from effnet_cli.system.reporter import SILENT, Reporter

Result = TypeVar("Result")


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
        model = as_model_options(model)
        check_options(engine, EngineOptions)
        check_options(images, ImageOptions)
        check_options(options, PredictOptions)
        # refuse an impossible combination before anything is downloaded
        self._plan = plan_engine(engine, expected_kind(model))
        self._model = resolve_model(model, reporter)
        self.card, self.sha256 = self._model.card, self._model.sha256
        self.name = str(model.model or self._model.variant.name)
        self.engine, self.precision = self._plan.engine, self.card.precision or self._plan.precision
        self.scores_are = scores_of(self.card)
        self._reporter, self._is_offline = reporter, model.offline
        self._ranking = new_ranking(self.card, options, images)
        self.operating_point = self._ranking.point
        self._scorer = Scorer(
            self._model, self._plan, images, options=options.run, reporter=reporter
        )
        self._note_training_options(images)

    def __call__(self, image: ImageLike) -> ImageResult:
        """Classify one image; if it cannot be decoded, the result has an `error`.

        Raises:
            EffnetError: the engine cannot be loaded.
            TypeError: `image` is not an image.
        """
        return next(self.predict([as_input(image)]))

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
        found = find_inputs(images, offline=self._is_offline)
        return self._scorer.run(found, self._ranking, has_lookahead=has_lookahead)

    def scores(self, images: Iterable[ImageInput]) -> Iterator[Scores | ImageError]:
        """Yield each image's scores, float32 [C], or its error, in order; raises like `predict`."""

        def finish(_: ImageInput, scored: ScoredImage | ImageError) -> Scores | ImageError:
            return scored if isinstance(scored, ImageError) else scored.scores

        return self.run(images, finish)

    def run(self, images: Iterable[ImageInput], finish: Finish[Result]) -> Iterator[Result]:
        """Yield `finish(image, scored)` for each image, in order; raises like `predict`.

        `finish` gets the crops, scores and features, or the error; it runs in the worker threads.
        """
        return self._scorer.run(iter(images), finish)

    def load_crop(self, path: str) -> Crops | None:
        """Load what the model sees of an image, uint8 [H,W,3]; `None` if it cannot be decoded."""
        return self._scorer.load_crop(path)

    def _note_training_options(self, images: ImageOptions) -> None:
        """Say if DICOM images looked different in training, which no file shows."""
        options = self.card.options
        trained = ImageOptions(**{name: options[name] for name in DICOM_FIELDS if name in options})
        flags = trained.dicom_flags
        if flags and flags != images.dicom_flags:
            self._reporter.note(
                f"{self.name} was trained with {flags}; add that if these are DICOM images."
            )
