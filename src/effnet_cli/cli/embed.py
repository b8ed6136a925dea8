"""`effnet embed`."""

from collections import deque
from pathlib import Path

from effnet_cli.options import EmbedOutputs, EmbedTask
from effnet_cli.output.out import open_output


def embed(task: EmbedTask, outputs: EmbedOutputs) -> int:
    """Turn images into vectors, to find and compare images with other tools.

    Writes one row per image, in the order given, with a vector of length 1; the larger the dot
    product of two vectors, the more alike are the images.
    """
    from effnet_cli.embed.formats import to_row
    from effnet_cli.embed.run import start_run

    with open_output(outputs) as out:
        with start_run(task, outputs, out) as run:
            images = out.track(run.images(), run.finder.count)
            if run.journal is None or outputs.output is None:
                out.rows("jsonl", map(to_row, images), csv=(), blocks=())
            else:
                deque(images, maxlen=0)
                for path in run.write(Path(outputs.output)):
                    out.note(f"Saved {str(path)!r}.")
        out.note(run.summary.describe(run.finder))
    return 1 if run.summary.failed else 0
