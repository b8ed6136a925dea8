"""Classifiers that compare features with examples: `--method prototype` and `knn`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from effnet_cli.engines import onnx_session, onnx_writer
from effnet_cli.engines.onnx_writer import FEATURES, INPUT, OUTPUT
from effnet_cli.export.quantize import list_float_values
from effnet_cli.export.run import export
from effnet_cli.finetune import example_phase, examples
from effnet_cli.finetune.example_phase import fill_head
from effnet_cli.finetune.examples import (
    SHRINKAGE,
    ExampleClassifier,
    Examples,
    class_means,
    fit_examples,
    fit_space,
)
from effnet_cli.finetune.folds import read_folds
from effnet_cli.models import build
from effnet_cli.models.variants import find_variant
from effnet_cli.options import (
    ExportOptions,
    ExportTask,
    FinetuneOptions,
    ModelOptions,
    TargetName,
)
from effnet_cli.system.errors import UsageError
from exporting import assert_same, predict
from helpers import RecordingReporter, lively
from training import (
    HEAD_ONLY,
    CommandResult,
    FinishedRun,
    RunWith,
    make_classes,
    make_task,
    resume,
    train,
)

Effnet = Callable[..., CommandResult]
METHODS = ("prototype", "knn")
WIDTH, CLASSES = 12, 4

pytestmark = pytest.mark.usefixtures("one_core", "caches")


@pytest.fixture(scope="session")
def example_runs(
    colours: Path, small: ModelOptions, session_folder: Path, caches: None
) -> dict[str, FinishedRun]:
    """A run with each method."""
    runs = {}
    for method in METHODS:
        options = FinetuneOptions(method=method, folds=3, final="all")  # type: ignore[arg-type]
        runs[method] = train(make_task(colours, small, session_folder / method, options))
    return runs


def make_examples(limit: int | None = None, images: int = 9, classes: int = CLASSES) -> Examples:
    """Return seeded features around a random centre for each class; the first has one more."""
    rng = np.random.default_rng(classes)
    labels = np.append(np.repeat(np.arange(classes), images), 0)
    centres = 2 * rng.normal(size=(classes, WIDTH))
    features = 5 + centres[labels] + rng.normal(size=(len(labels), WIDTH)) * np.arange(1, WIDTH + 1)
    none = np.full(len(labels), -1)
    return Examples(features, labels, none, np.zeros(classes), limit=limit, seed=0)


def softmax(logits: np.ndarray) -> np.ndarray:
    values = np.exp(logits - logits.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


def whiten(examples: Examples) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map to unit vectors, by the eigenvectors of the covariance."""
    x, y = examples.features, examples.labels
    means = np.stack([x[y == label].mean(axis=0) for label in range(examples.num_classes)])
    scatter = sum(np.outer(row - means[k], row - means[k]) for row, k in zip(x, y, strict=True))
    covariance = scatter / (len(x) - examples.num_classes)
    identity = np.eye(WIDTH) * np.trace(covariance) / WIDTH
    values, vectors = np.linalg.eigh((1 - SHRINKAGE) * covariance + SHRINKAGE * identity)

    def embed(features: np.ndarray) -> np.ndarray:
        rows = (features - means.mean(axis=0)) @ vectors / np.sqrt(values)
        unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    return embed


@pytest.mark.parametrize("images", [2, 9])  # fewer images than features, and more
def test_prototypes_are_the_means_of_whitened_unit_vectors(images: int) -> None:
    given, asked = make_examples(images=images), make_examples(images=5).features
    fitted, loss = fit_examples(given)
    embed = whiten(given)
    means = [embed(given.features)[given.labels == k].mean(axis=0) for k in range(CLASSES)]
    directions = np.stack([mean / np.linalg.norm(mean) for mean in means])
    expected = embed(asked) @ directions.T / fitted.temperature
    np.testing.assert_allclose(fitted.predict(asked), expected, atol=1e-9)
    assert loss > 0


def test_neighbours_vote_by_their_angles() -> None:
    given, asked = make_examples(limit=100), make_examples(images=5).features
    fitted, _ = fit_examples(given)
    embed = whiten(given)
    votes = np.zeros((len(asked), CLASSES))
    for row, values in enumerate(embed(asked)):
        for label, other in zip(given.labels, embed(given.features), strict=True):
            votes[row, label] += np.exp(values @ other / fitted.temperature)
    counts = np.bincount(given.labels)  # classes count as equally frequent here
    shares = votes / counts
    expected = shares / shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(fitted.predict(asked)), expected, atol=1e-9)


def test_a_new_class_keeps_the_prototypes_of_the_others() -> None:
    given = make_examples()
    space = fit_space(given.features, given.labels, CLASSES)
    values = space.embed(given.features)
    before = class_means(values, given.labels, CLASSES)
    more = np.append(values, space.embed(given.features[:3] + 9), axis=0)
    after = class_means(more, np.append(given.labels, [CLASSES] * 3), CLASSES + 1)
    np.testing.assert_array_equal(after[:CLASSES], before)


def test_the_temperature_is_that_of_images_held_out() -> None:
    given, later = make_examples(images=40), make_examples(images=200)
    fitted, loss = fit_examples(given)
    logits = fitted.predict(later.features)

    def measure(temperature: float) -> float:
        shares = softmax(logits * fitted.temperature / temperature)
        return float(-np.log(shares[np.arange(len(shares)), later.labels]).mean())

    best = min(map(measure, examples.TEMPERATURES))
    assert measure(fitted.temperature) < best + 0.05
    assert loss == pytest.approx(measure(fitted.temperature), abs=0.15)
    assert measure(fitted.temperature / 10) > best + 0.5


def test_one_image_of_each_class_is_enough() -> None:
    given = make_examples().select(np.arange(4 * 9 + 1) % 9 == 1)
    assert given.labels.tolist() == [0, 1, 2, 3]
    fitted, loss = fit_examples(given)
    assert fitted.temperature == examples.DEFAULT_TEMPERATURE
    assert np.isfinite(loss)
    assert fitted.predict(given.features).argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_as_many_images_are_stored_as_allowed() -> None:
    fitted, _ = fit_examples(make_examples(limit=5))
    assert fitted.examples.shape == (CLASSES, 5, WIDTH)
    assert examples.stored_limit(2) == 4096
    assert examples.stored_limit(5000) == examples.MIN_STORED


def fitted_module(votes: int) -> tuple[torch.nn.Module, ExampleClassifier]:
    """Return lite0 with a classifier for seven classes, of which one has an empty place."""
    module = lively(build.build(find_variant("lite0"), 7))
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.standard_normal((7 * votes, 3, 64, 64), np.float32))
    with torch.inference_mode():
        features = module.pool(pixels).double().numpy()  # type: ignore[operator]
    labels = np.repeat(np.arange(7), votes)
    if votes > 1:
        labels[-1] = 0
    none = np.full(len(labels), -1)
    given = Examples(features, labels, none, np.zeros(7), limit=votes + 1, seed=0)
    fitted, _ = fit_examples(given)
    fill_head(module, fitted, scale=1.0)
    return module.eval(), fitted


@pytest.mark.parametrize("votes", [1, 3])
def test_layers_and_compiled_graph_compute_the_same(votes: int) -> None:
    module, fitted = fitted_module(votes)
    pixels = np.random.default_rng(1).standard_normal((5, 3, 64, 64), np.float32)
    with torch.inference_mode():
        features = module.pool(torch.from_numpy(pixels))  # type: ignore[operator]
        logits = module.classifier(features).numpy()  # type: ignore[operator]
    expected = softmax(fitted.predict(features.double().numpy()))
    assert expected.max() > 1.1 / 7  # otherwise any module would pass
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-4)
    content = onnx_writer.build_graph(module, 64, {}, pool="avg")
    session = onnx_session.open_session(content)
    own_logits, own_features = session.run([OUTPUT, FEATURES], {INPUT: pixels})
    np.testing.assert_allclose(own_logits, logits, atol=1e-3)
    np.testing.assert_allclose(own_features, features.numpy(), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_model_file_is_an_ordinary_one(
    method: str, example_runs: dict[str, FinishedRun], colours: Path
) -> None:
    ran = example_runs[method]
    assert ran.end.val.top1 > 0.8  # type: ignore[union-attr]
    assert [(epoch.phase, epoch.epochs) for epoch in ran.epochs] == [("head", 1)]
    assert {"hidden", "lr", "augment"}.isdisjoint(ran.card.options)
    assert ran.card.options["method"] == method
    folds = read_folds(ran.folder)
    assert folds is not None
    assert folds.total == 24
    assert folds.right > 18
    assert ran.all_images is not None
    assert ran.all_images.images == 24
    rows = predict(ModelOptions(model=ran.folder), sorted(colours.glob("*/*.png")))
    right = [row.predictions[0].label == Path(row.path).parent.name for row in rows]
    assert np.mean(right) > 0.9


def test_a_model_from_examples_can_be_trained_on(
    example_runs: dict[str, FinishedRun], run_with: RunWith
) -> None:
    base = ModelOptions(model=example_runs["knn"].folder)
    ran, reporter = run_with(FinetuneOptions(method="prototype"), model=base)
    assert ran.tensors["classifier.3.weight"].shape == (3, 1280)
    assert any("MB of the model file" in note for note in reporter.notes)
    headed, _ = run_with(HEAD_ONLY, model=base)
    assert headed.tensors["classifier.1.weight"].shape == (3, 1280)


@pytest.mark.parametrize(
    ("method", "target"), [("prototype", "onnx"), ("knn", "litert"), ("knn", "openvino")]
)
def test_exports_predict_the_same(
    method: str,
    target: TargetName,
    example_runs: dict[str, FinishedRun],
    colours: Path,
    tmp_path: Path,
) -> None:
    model, paths = ModelOptions(model=example_runs[method].folder), sorted(colours.glob("*/*.png"))
    settings = ExportOptions(target, include_preprocessing=True)
    done = export(ExportTask(model=model, options=settings, output=tmp_path))
    assert done.path is not None
    actual = predict(ModelOptions(model=done.path), paths)
    assert_same(actual, predict(model, paths), 1e-3)


@pytest.mark.parametrize("target", ["onnx", "litert"])
def test_int8_keeps_the_classifier_in_float(
    target: TargetName, example_runs: dict[str, FinishedRun], colours: Path, tmp_path: Path
) -> None:
    model = ModelOptions(model=example_runs["knn"].folder)
    settings = ExportOptions(target, quantize="int8")
    done = export(
        ExportTask(model=model, options=settings, output=tmp_path, calibrate=colours, force=True)
    )
    agreement = done.comparison.forms[-1].agreement
    assert agreement is not None
    assert agreement > 0.8


def test_float_values_are_those_of_the_classifier() -> None:
    module, _ = fitted_module(3)
    graph = onnx.load_from_string(onnx_writer.build_graph(module, 64, {}))
    floats = list_float_values(graph)
    assert OUTPUT in floats
    assert {node.op_type for node in graph.graph.node if node.output[0] in floats} >= {
        *("Gemm", "Sqrt", "Exp", "Log")
    }
    assert not any(node.op_type == "Conv" for node in graph.graph.node if node.output[0] in floats)
    trained = lively(build.build(find_variant("lite0"), 7))
    plain = onnx.load_from_string(onnx_writer.build_graph(trained, 64, {}))
    assert list_float_values(plain) == frozenset()


def test_images_and_classes_are_added_by_a_new_run(
    example_runs: dict[str, FinishedRun], run_with: RunWith, tmp_path: Path
) -> None:
    first = example_runs["prototype"]
    reporter = RecordingReporter()
    before = first.model
    again = resume(first.folder, reporter)
    assert again.model == before
    assert any("nothing to resume" in note for note in reporter.notes)
    root = tmp_path / "four"
    make_classes(root, ("red", "green", "blue", "dark"))
    more, _ = run_with(FinetuneOptions(method="prototype"), root=root)
    assert more.card.classes == ("blue", "dark", "green", "red")


def test_interrupted_run_starts_over(run_with: RunWith, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    whole, _ = run_with(FinetuneOptions(method="knn"))
    folder = whole.folder
    before = whole.model
    for name in ("state.safetensors", "model.safetensors", "metrics.jsonl"):
        (folder / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(example_phase, "fit_examples", fail)
        with pytest.raises(KeyboardInterrupt):
            resume(folder)
    assert resume(folder).model == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--epochs", "3"), "--epochs"),
        (("--lr", "0.1"), "--lr"),
        (("--augment", "light"), "--augment"),
        (("--head-only",), "--head-only"),
        (("--hidden", "0"), "--hidden"),
        (("--from-scratch",), "--from-scratch"),
        (("--weight-decay", "0"), "--weight-decay"),
    ],
)
def test_options_of_training_are_refused(
    words: tuple[str, ...], named: str, colours: Path, effnet: Effnet
) -> None:
    done = effnet("finetune", colours, "--method", "knn", *words)
    assert done.status == 2
    assert f"{named} cannot be combined with --method knn" in done.stderr
    assert f"Omit {named}." in done.stderr


def test_several_labels_are_refused(colours: Path, effnet: Effnet) -> None:
    done = effnet("finetune", colours, "--method", "prototype", "--multi-label")
    assert done.status == 2
    assert "--method prototype cannot be combined with --multi-label" in done.stderr


def test_hub_has_no_place_for_examples(
    example_runs: dict[str, FinishedRun], tmp_path: Path
) -> None:
    task = ExportTask(
        model=ModelOptions(model=example_runs["prototype"].folder),
        options=ExportOptions("hub"),
        output=tmp_path / "hub",
    )
    with pytest.raises(UsageError, match="compares features with examples"):
        export(task)
