"""Fits classifiers to a few images of each class, by their features, within seconds.

Features are centred and whitened with the covariance within the classes, so that directions in
which images of one class differ count little. Then their angles to examples say the class: to the
mean of each class (`prototype`), or to single training images (`knn`). Nothing is trained but one
number, the temperature.

Directions of few images are mostly chance, so their covariance is shrunk towards a multiple of the
identity (Ledoit and Wolf 2004). Angles after whitening, and not a discriminant's distances, are
what docs/defaults.md measures.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from effnet_cli.datasets.split import assign_folds

Values = npt.NDArray[np.float64]
ClassIndexes = npt.NDArray[np.integer]

SHRINKAGE = 0.3  # the share of the identity in the covariance
FIT_FOLDS, FIT_IMAGES = 5, 2000  # that the temperature is fitted on
# Of cosines; the one with the lowest log loss is taken.
TEMPERATURES = np.geomspace(0.01, 1.0, 21)
DEFAULT_TEMPERATURE = 0.1  # where every class has one image, so that none can be held out
MIN_STORED, MAX_STORED = 5, 8192  # examples of a class at least, and of all classes at most
NO_EXAMPLE = -1e4  # the logit of an empty place: exp() of it is 0
SHORTEST = 1e-12
RANK_TOLERANCE = 1e-10  # of squared lengths, relative to the largest


@dataclass(frozen=True, slots=True)
class FeatureSpace:
    """A space in which cosines tell classes apart: `centre` [D] and `projection` [D,D]."""

    centre: Values
    projection: Values

    def embed(self, features: Values) -> Values:
        """Return the unit vectors, [N,D], of features [N,D]."""
        return _to_unit((features - self.centre) @ self.projection.T)


@dataclass(frozen=True, slots=True)
class ExampleClassifier:
    """Classifies by cosines to examples.

    `examples` [C,K,D] are unit vectors, K for each class. The logit of a class is the log-sum-exp
    over its examples of cosine / `temperature` + `biases` [C,K]; that of an empty place is
    `NO_EXAMPLE`.
    """

    space: FeatureSpace
    examples: Values
    biases: Values
    temperature: float

    def predict(self, features: Values) -> Values:
        """Return the logits of features [N,D], float64 [N,C]."""
        return self.vote(self.cosines(features))

    def cosines(self, features: Values) -> Values:
        """Return the cosines of features [N,D] to all examples, [N,C,K]."""
        flat = self.examples.reshape(-1, self.examples.shape[2])
        products = self.space.embed(features) @ flat.T
        return products.reshape(len(features), *self.biases.shape)

    def vote(self, cosines: Values) -> Values:
        """Return the logits [N,C] of cosines [N,C,K]."""
        scores = cosines / self.temperature + self.biases
        highest = scores.max(axis=2)
        sums: Values = np.exp(scores - highest[:, :, None]).sum(axis=2)
        logits: Values = highest + np.log(sums)
        return logits


@dataclass(frozen=True, slots=True)
class Examples:
    """Training images: `features` [N,D], `labels` [N] of C classes, and the `groups` [N] (-1 is
    none) that are not divided. `log_shares` [C] are how frequent the classes are taken to be.

    At most `limit` examples of a class are stored; `None` stands for the mean of all.
    """

    features: Values
    labels: ClassIndexes
    groups: ClassIndexes
    log_shares: Values
    limit: int | None
    seed: int

    @property
    def num_classes(self) -> int:
        return len(self.log_shares)

    def select(self, chosen: npt.NDArray[np.bool_]) -> "Examples":
        """Return the images that are `chosen` [N]."""
        return replace(
            self,
            features=self.features[chosen],
            labels=self.labels[chosen],
            groups=self.groups[chosen],
        )


def stored_limit(num_classes: int) -> int:
    """Return how many training images of a class are stored at most."""
    return max(MIN_STORED, MAX_STORED // num_classes)


def fit_examples(examples: Examples) -> tuple[ExampleClassifier, float]:
    """Return the classifier of all images, and the mean log loss of its temperature on images that
    were held out: each fifth in turn, classified by the others. If none can be, because each class
    has one image, it is that of these images.
    """
    temperature, loss = _fit_temperature(examples)
    fitted = replace(_fit(examples), temperature=temperature)
    if loss is None:
        loss = float(_losses(fitted.predict(examples.features), examples.labels).mean())
    return fitted, loss


def fit_space(features: Values, labels: ClassIndexes, num_classes: int) -> FeatureSpace:
    """Return the space in which the covariance within the classes is the same in all directions."""
    means = class_means(features, labels, num_classes)
    centre = means[np.unique(labels)].mean(axis=0)
    residuals = features - means[labels]
    freedom = len(features) - len(np.unique(labels))
    size = features.shape[1]
    variance = float((residuals**2).sum()) / max(freedom, 1) / size
    if variance < SHORTEST:  # one image of each class, or equal ones: no direction differs
        return FeatureSpace(centre, np.eye(size))
    values, directions = _find_directions(residuals)
    shared = SHRINKAGE * variance
    factors = np.sqrt(shared / (shared + (1 - SHRINKAGE) / freedom * values))
    # the inverse root of the shrunk covariance; all directions that no image has are alike
    projection = np.eye(size) + (directions * (factors - 1)) @ directions.T
    # values of about one, which fit into 16 bits; their scale has no effect on angles
    moved = (features - centre) @ projection.T
    return FeatureSpace(centre, projection / max(np.sqrt((moved**2).mean()), SHORTEST))


def _find_directions(residuals: Values) -> tuple[Values, Values]:
    """Return the squared lengths [R] of the residuals [N,D] in orthogonal directions [D,R]."""
    count, size = residuals.shape
    if count >= size:
        values, directions = np.linalg.eigh(residuals.T @ residuals)
        return np.maximum(values, 0), directions
    values, mixtures = np.linalg.eigh(residuals @ residuals.T)
    is_direction = values > RANK_TOLERANCE * values[-1]
    values = values[is_direction]
    return values, residuals.T @ mixtures[:, is_direction] / np.sqrt(values)


def class_means(values: Values, labels: ClassIndexes, num_classes: int) -> Values:
    """Return the mean of the values [N,D] of each class, [C,D]; 0 for a class without any."""
    sums = np.zeros((num_classes, values.shape[1]))
    np.add.at(sums, labels, values)
    counts = np.bincount(labels, minlength=num_classes)
    return sums / np.maximum(counts, 1)[:, None]


def _fit(examples: Examples) -> ExampleClassifier:
    """Return a classifier with the default temperature."""
    labels, count = examples.labels, examples.num_classes
    space = fit_space(examples.features, labels, count)
    values = space.embed(examples.features)
    if examples.limit is None:
        stored = _to_unit(class_means(values, labels, count))[:, None]
        numbers = np.minimum(np.bincount(labels, minlength=count), 1)
    else:
        stored, numbers = _store(values, examples)
    is_empty = np.arange(stored.shape[1]) >= numbers[:, None]
    own = examples.log_shares - np.log(np.maximum(numbers, 1))
    biases = np.where(is_empty, NO_EXAMPLE, own[:, None])
    return ExampleClassifier(space, stored, biases, temperature=DEFAULT_TEMPERATURE)


def _store(values: Values, examples: Examples) -> tuple[Values, npt.NDArray[np.intp]]:
    """Return the stored examples, [C,K,D], and their number for each class, [C]."""
    counts = np.bincount(examples.labels, minlength=examples.num_classes)
    numbers = np.minimum(counts, examples.limit or 0)
    stored = np.zeros((len(counts), int(numbers.max()), values.shape[1]))
    order = np.random.default_rng((examples.seed, 5)).permutation(len(values))
    for label in np.flatnonzero(counts):
        members = order[examples.labels[order] == label][: numbers[label]]
        stored[label, : numbers[label]] = values[np.sort(members)]
    return stored, numbers


def _fit_temperature(examples: Examples) -> tuple[float, float | None]:
    """Return the best temperature on images that were held out, and its mean log loss."""
    folds = assign_folds(
        examples.labels.astype(np.int32),
        examples.groups.astype(np.int32),
        FIT_FOLDS,
        seed=examples.seed,
    )
    losses, total = np.zeros(len(TEMPERATURES)), 0
    order = np.random.default_rng((examples.seed, 6)).permutation(len(folds))
    is_asked = order < FIT_IMAGES
    for fold in np.unique(folds):
        kept, held = examples.select(folds != fold), examples.select(folds == fold)
        held = held.select(np.isin(held.labels, kept.labels) & is_asked[folds == fold])
        if not len(held.labels):
            continue
        classifier = _fit(kept)
        cosines = classifier.cosines(held.features)
        for place, temperature in enumerate(TEMPERATURES.tolist()):
            logits = replace(classifier, temperature=temperature).vote(cosines)
            losses[place] += _losses(logits, held.labels).sum()
        total += len(held.labels)
    if not total:
        return DEFAULT_TEMPERATURE, None
    best = int(losses.argmin())
    return float(TEMPERATURES[best]), float(losses[best] / total)


def _losses(logits: Values, labels: ClassIndexes) -> Values:
    """Return the cross-entropy of logits [N,C] for labels [N]."""
    below = logits - logits.max(axis=1, keepdims=True)
    losses: Values = np.log(np.exp(below).sum(axis=1)) - below[np.arange(len(labels)), labels]
    return losses


def _to_unit(values: Values) -> Values:
    unit: Values = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), SHORTEST)
    return unit
