"""The Python interface: a model that turns images into vectors."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from effnet_cli.embed.records import EmbeddedImage, Vector, VectorSource
from effnet_cli.engines.base import Scores, card_probabilities, scores_of
from effnet_cli.engines.registry import plan_engine
from effnet_cli.images.finder import ImageInput, Url
from effnet_cli.images.sources import open_regular_file
from effnet_cli.models.weights import expected_kind, resolve_model
from effnet_cli.options import EmbedOptions, EngineOptions, ImageOptions, ModelOptions
from effnet_cli.predict.inputs import (
    ImageLike,
    as_input,
    as_model_options,
    check_options,
    find_inputs,
)
from effnet_cli.predict.pipeline import Finish, ScoredImage
from effnet_cli.predict.records import ErrorInfo
from effnet_cli.predict.scorer import Scorer
from effnet_cli.system.errors import ImageError, UsageError
from effnet_cli.system.reporter import SILENT, Reporter

Result = TypeVar("Result")
# Options for images that do not change what is seen.
UNSEEN = frozenset({"isolate", "timeout_s", "max_pixels"})


class Embedder:
    """Turns images into vectors of length 1: the larger the dot product of two, the more alike are
    the images.

    Vectors are the features of the model before its classifier, pooled over the image. Only those
    of equal `source` can be compared.

    Examples:
        >>> embed = Embedder("lite0")
        >>> embed("cat.jpg") @ embed("kitten.jpg")
        0.71

    Args:
        model: the name of a variant, the path of a model or run, or all of `ModelOptions`.
        engine: device, engine and precision.
        images: how images are decoded and cropped.
        options: pooling, batch size and threads.
        reporter: receives notes about downloads and compilation.

    Attributes:
        source: what the vectors depend on.
        card: class names and preprocessing.
        engine: the name of the engine.

    Raises:
        UsageError: unknown variant, model file, device or engine, or invalid options.
        EffnetError: weights or engine are not available.
    """

    def __init__(
        self,
        model: str | Path | ModelOptions = ModelOptions(),
        engine: EngineOptions = EngineOptions(),
        images: ImageOptions = ImageOptions(),
        options: EmbedOptions = EmbedOptions(),
        reporter: Reporter = SILENT,
    ) -> None:
        model = as_model_options(model)
        check_options(engine, EngineOptions)
        check_options(images, ImageOptions)
        check_options(options, EmbedOptions)
        plan = plan_engine(engine, expected_kind(model))
        resolved = resolve_model(model, reporter)
        is_exported = resolved.file_kind != "tensors"
        pool = options.pool or ("avg" if is_exported else "gem")
        name = str(model.model or resolved.variant.name)
        if is_exported and pool != "avg":
            raise UsageError(
                f"{name!r} is an exported file, whose features are averaged.",
                "Use --pool avg, or the model that it was exported from.",
            )
        precision = resolved.card.precision or plan.precision
        self.card, self.engine, self._is_offline = resolved.card, plan.engine, model.offline
        self.source = VectorSource(
            name, resolved.sha256, pool, precision=precision, settings=_seen_settings(images)
        )
        self._scorer = Scorer(
            replace(resolved, pool=pool), plan, images, options=options, reporter=reporter
        )

    def __call__(self, image: ImageLike) -> Vector:
        """Return the vector of one image, float32 [D].

        Raises:
            ImageError: the image cannot be decoded.
            EffnetError: the engine cannot be loaded, or the model outputs no features.
            TypeError: `image` is not an image.
        """
        (result,) = self._scorer.run(iter([as_input(image)]), self._finish)
        if isinstance(result, ImageError):
            raise result
        return result

    def embed(
        self, images: ImageLike | Iterable[ImageLike | ImageInput], *, has_lookahead: bool = True
    ) -> Iterator[EmbeddedImage]:
        """Embed images, folders (with their subfolders), patterns and URLs.

        Results come in input order, as soon as they are known, and memory use stays constant.

        Args:
            images: one input or many.
            has_lookahead: as in `Classifier.predict`.

        Raises:
            EffnetError: the engine cannot be loaded or used, or the model outputs no features.
            TypeError: an input is not an image.
        """
        inputs = find_inputs(images, offline=self._is_offline)
        return self._scorer.run(inputs, self._describe, has_lookahead=has_lookahead)

    def run(self, images: Iterable[ImageInput], finish: Finish[Result]) -> Iterator[Result]:
        """Yield `finish(image, scored)` for each image, in order; raises like `embed`.

        `finish` gets the crops, scores and features, or the error; it runs in the worker threads.
        """
        return self._scorer.run(iter(images), finish)

    def to_vector(self, scored: ScoredImage) -> Vector:
        """Return the vector, float32 [D], of what `run` passes to `finish`.

        Raises:
            UsageError: the model outputs no features.
        """
        if scored.features is None:
            raise UsageError(
                f"{self.source.model!r} does not output its features.",
                "Export it with --include-features, or use the model that it was exported from.",
            )
        return normalize(scored.features)

    def to_probabilities(self, scores: Scores) -> npt.NDArray[np.float64]:
        """Return the calibrated probabilities, float64 [C], of the classes in `card`."""
        rows = card_probabilities(self.card, scores[None], scores_of(self.card))
        return rows.reshape(-1)

    def load_crop(self, path: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None:
        """Load what the model sees of an image, uint8 [H,W,3]; `None` if it cannot be decoded."""
        return self._scorer.load_crop(path)

    def _describe(self, one: ImageInput, scored: ScoredImage | ImageError) -> EmbeddedImage:
        result = self._finish(one, scored)
        if isinstance(result, ImageError):
            return EmbeddedImage(one.name, error=ErrorInfo(result.kind, result.message))
        return EmbeddedImage(one.name, result, digest_source(one.source))

    def _finish(self, _: ImageInput, scored: ScoredImage | ImageError) -> Vector | ImageError:
        return scored if isinstance(scored, ImageError) else self.to_vector(scored)


def normalize(features: Vector) -> Vector:
    """Return vectors, float32 [...,D], of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    unit: Vector = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def digest_source(source: object) -> str:
    """Return the SHA-256 of a file or of bytes; empty for what is no file."""
    if isinstance(source, Url) or not isinstance(source, str | bytes):
        return ""
    with suppress(ImageError, OSError), open_regular_file(source) as file:
        return hashlib.sha256(file.read()).hexdigest()
    return ""


def _seen_settings(images: ImageOptions) -> dict[str, object]:
    return {
        field.name: list(value) if isinstance(value, tuple) else value  # as in JSON
        for field in fields(images)
        if field.name not in UNSEEN and (value := getattr(images, field.name)) != field.default
    }
