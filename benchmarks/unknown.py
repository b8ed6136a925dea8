"""How many images of another kind a fine-tuned model calls unknown.

    python benchmarks/unknown.py SETS RUN ...

SETS holds one folder per set, with `val/` (see suite_sets.py); each RUN is a run folder that
`effnet finetune SETS/<set>` has written. Each model is asked about the validation images of its own
set and of every other one. Sets that share images are not compared. The table has the shares that
the model calls unknown by familiarity alone, as with `--unknown-below auto` but without the
threshold of the probability. The limit of 5 % was set on its own images.
"""

import argparse
import json
import random
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from effnet_cli.engines.registry import plan_engine
from effnet_cli.images.finder import Finder
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.weights import Model, resolve_model
from effnet_cli.options import EngineOptions, ModelOptions
from effnet_cli.predict.pipeline import Pipeline
from effnet_cli.predict.ranking import UNKNOWN, Ranking
from effnet_cli.system.errors import EffnetError

MAX_IMAGES = 250  # of each set
SHARED = (
    {"grocery", "fewshot5"},
    {"clothes", "fewshot20"},
    {"satellite", "imbalance20"},
    {"flowers5", "imbalance20flowers"},
)


def choose_images(folder: Path) -> list[str]:
    """Return the paths of some validation images of a set, the same each time."""
    paths = sorted(str(path) for path in (folder / "val").glob("*/*"))
    return sorted(random.Random(0).sample(paths, min(MAX_IMAGES, len(paths))))


def unknown_shares(model: Model, sets: Sequence[Path]) -> Iterator[float]:
    """Yield the share of unknown images of each set."""
    if model.card.familiarity is None:
        raise EffnetError(f"{model.path} has no familiarity.", "Train it again.")
    plan = plan_engine(EngineOptions("cpu"))
    loader = ImageLoader(model.card.preprocessing)
    ranking = Ranking(model.card, top_k=1, familiarity=model.card.familiarity)
    pipeline = Pipeline(plan.load(model, plan.workers), loader.load, workers=plan.workers)
    for folder in sets:
        rows = pipeline.run(iter(Finder(choose_images(folder))), ranking)
        labels = [row.predictions[0].label for row in rows if row.predictions]
        yield labels.count(UNKNOWN) / len(labels)


def main() -> None:
    """Measure all models, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    settings = parser.parse_args()
    sets = sorted(path for path in settings.sets.iterdir() if (path / "val").is_dir())
    table = Table("model of", *(path.name for path in sets), "mean of others", box=None)
    others: dict[tuple[str, str], float] = {}
    for run in settings.runs:
        own = Path(json.loads((run / "options.json").read_text())["root"]).name
        cells, foreign = [], []
        shares = unknown_shares(resolve_model(ModelOptions(model=run)), sets)
        for folder, share in zip(sets, shares, strict=True):
            is_other = folder.name != own and {folder.name, own} not in SHARED
            if is_other:
                foreign.append(share)
                others[own, folder.name] = share
            cells.append(f"{share:.0%}" if is_other else f"({share:.0%})")
        table.add_row(own, *cells, f"{statistics.mean(foreign):.1%}")
    Console(width=200).print(table)
    worst = sorted(others, key=lambda pair: others[pair])[:5]
    print(f"mean {statistics.mean(others.values()):.1%}; lowest:")
    for model, images in worst:
        print(f"  model of {model}, images of {images}: {others[model, images]:.0%}")


if __name__ == "__main__":
    main()
