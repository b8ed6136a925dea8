"""What is done with the best model once training has ended."""

from dataclasses import replace

import numpy as np

from effnet_cli.engines.base import Engine
from effnet_cli.evaluate.records import LabelMetrics, Metrics
from effnet_cli.finetune.setup import TrainingSetup
from effnet_cli.models import build, checkpoint
from effnet_cli.models.familiarity import Familiarity, fit_familiarity
from effnet_cli.models.weights import resolve_model
from effnet_cli.options import ModelOptions

KNOWN_SHARE = 0.95  # of the validation images that --unknown-below auto finds familiar
MIN_KNOWN_IMAGES = 20  # to find the least familiar twentieth of them
FAMILIAR_IMAGES = 1000  # training images at most: enough for the directions that are stored


def finish_model(setup: TrainingSetup) -> None:
    """Add to the model file what tells unfamiliar images, if there are enough of validation."""
    path = setup.run_dir.model
    card = setup.processes.broadcast(lambda: checkpoint.read_card(path))
    if card.familiarity is not None or len(setup.val) < MIN_KNOWN_IMAGES:
        return
    familiarity = fit_to_images(setup, _load_engine(setup))
    if setup.processes.is_first:
        card, tensors = checkpoint.read_arrays(path)
        checkpoint.write(path, replace(card, familiarity=familiarity), tensors)


def evaluate_on_test(setup: TrainingSetup) -> Metrics | LabelMetrics | None:
    """Return the metrics of the model file on the test split; `None` if there is none."""
    test = setup.dataset.test
    if test is None:
        return None
    outputs = setup.inference.run(_load_engine(setup), setup.make_loader(test), "Test")
    return setup.objective.measure(test, *outputs)


def _load_engine(setup: TrainingSetup) -> Engine:
    """Load the engine for the model file."""
    options = ModelOptions(model=setup.run_dir.model)
    module = setup.processes.broadcast(lambda: build.load_module(resolve_model(options)))
    return setup.inference.load_engine(module.to(setup.device))


def fit_to_images(setup: TrainingSetup, engine: Engine) -> Familiarity | None:
    """Return how familiar images are to a model; `None` if there are too few of validation."""
    if len(setup.val) < MIN_KNOWN_IMAGES:
        return None
    order = np.random.default_rng((setup.options.seed, 3)).permutation(len(setup.train))
    run = setup.inference.run
    _, train = run(
        engine,
        setup.train,
        "Features of the final model",
        indexes=np.sort(order[:FAMILIAR_IMAGES]),
        output="features",
    )
    _, val = run(engine, setup.val, "Features of the final model", output="features")
    return fit_familiarity(train, val, KNOWN_SHARE)
