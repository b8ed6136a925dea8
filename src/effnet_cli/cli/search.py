"""`effnet search`."""

import time
from typing import TYPE_CHECKING, Annotated

from effnet_cli.options import (
    CalibratePairsTask,
    CalibrationOutputs,
    ClusterOutputs,
    ClusterTask,
    IndexName,
    IndexTask,
    ListOutputs,
    MapTask,
    Outputs,
    QueryOutputs,
    QueryTask,
    RowOutputs,
    VerifyPairTask,
)
from effnet_cli.output.out import Output, open_output
from effnet_cli.system.fields import Only

if TYPE_CHECKING:
    from effnet_cli.search.index import Index

WATCH_SECONDS = 5.0  # between two looks at the folders


def index_images(task: IndexTask, outputs: RowOutputs) -> int:
    """Make an index of images, or bring it up to date: unchanged files are not opened.

    Prints what changed: images that were added, changed, copied or moved, removed, or that cannot
    be read. Nothing is written into your folders.
    """
    from effnet_cli.search.index import Index

    with open_output(outputs) as out:
        index = Index(
            task.index,
            task.model,
            engine=task.engine,
            images=task.images,
            options=task.options,
            reporter=out,
        )
        has_failed = _update(index, task, outputs, out=out)
        while task.watch:
            time.sleep(WATCH_SECONDS)
            has_failed = _update(index, task, outputs, out=out, is_quiet=True)
    return 1 if has_failed else 0


def _update(
    index: "Index", task: IndexTask, outputs: RowOutputs, *, out: Output, is_quiet: bool = False
) -> bool:
    from effnet_cli.search import formats, table

    with index.open_update(task.inputs, allow_empty=task.allow_empty) as update:
        changes = out.track(update.run(), lambda: None)
        if outputs.format == "table":
            changes = (one for one in changes if one.error is not None or is_quiet)
        out.rows(
            outputs.format,
            map(formats.change_row, changes),
            csv=formats.change_lines(changes),
            blocks=table.change_blocks(changes),
        )
        summary = update.summary(task.index)
        if not is_quiet or summary.changes:
            out.note(table.describe_update(summary))
        return summary.failed > 0


def compact(task: IndexName, outputs: Outputs) -> int:
    """Make the files of an index smaller after many images were removed."""
    from effnet_cli.search.index import Index

    with open_output(outputs) as out:
        removed = Index(task.index, reporter=out).compact()
        out.note(f"Removed {removed:,} unused vectors from the index {task.index!r}.")
    return 0


def list_indexes(outputs: Annotated[ListOutputs, Only("format")]) -> int:
    """List the indexes that have names, with their images, models and sizes."""
    from effnet_cli.search import formats, table
    from effnet_cli.search.index import list_indexes

    found = [index.describe() for index in list_indexes()]
    with open_output(outputs) as out:
        out.show(outputs.format, formats.list_infos(found), [table.indexes_table(found)])
    return 0


def cluster(task: ClusterTask, outputs: ClusterOutputs) -> int:
    """Group the images of an index by what they look like."""
    from effnet_cli.search import formats, page, table
    from effnet_cli.search.cluster import find_clusters
    from effnet_cli.search.index import Index

    with open_output(outputs) as out, Index(task.index).open() as opened:
        found = find_clusters(opened, task.clusters, task.seed)
        out.show(
            outputs.format,
            formats.list_clusters(found),
            [table.clusters_table(found)],
            csv=formats.cluster_lines(found),
        )
        if outputs.html is not None:
            out.page(page.clusters_page(opened, found), outputs.html)
            out.note(f"Saved {str(outputs.html)!r}.")
    return 0


def draw_map(task: MapTask, outputs: Outputs) -> int:
    """Draw the images of an index as a map, in one page that needs no network."""
    from effnet_cli.output.writers import check_output
    from effnet_cli.search.index import Index
    from effnet_cli.search.layout import lay_out
    from effnet_cli.search.page import map_page

    check_output(task.html, "--html")
    with open_output(outputs) as out, Index(task.index).open() as opened:
        layout = lay_out(opened, task.seed)
        out.page(map_page(opened, layout), task.html)
        if len(layout.rows) < layout.total:
            out.note(f"{len(layout.rows):,} of {layout.total:,} images are shown.")
        out.note(f"Saved {str(task.html)!r}.")
    return 0


def calibrate(task: CalibratePairsTask, outputs: CalibrationOutputs) -> int:
    """Find the similarity from which two images show the same, on pairs that are known.

    Prints the equal error rate (EER), and the true accept rate (TAR) at false accept rates (FAR).
    """
    from effnet_cli.output.writers import check_not_read, check_output
    from effnet_cli.search import calibrate, formats, page, table

    if outputs.output is not None:
        check_output(outputs.output, "--output")
        check_not_read(outputs.output, [task.pairs])
    with open_output(outputs, [task.pairs]) as out:
        found = calibrate.calibrate_pairs(task, out)
        out.show(
            outputs.format,
            formats.verification_dict(found),
            table.verification_blocks(found),
            csv=formats.verification_lines(found),
        )
        for image in found.failed:
            out.warn(f"{image.path}: {image.error.message if image.error else ''}")
        out.note(table.promise_line(found.calibration))
        if outputs.output is not None:
            calibrate.save_calibration(found.calibration, outputs.output)
            out.note(f"Saved {str(outputs.output)!r}.")
        if outputs.html is not None:
            out.page(page.verification_page(found), outputs.html)
            out.note(f"Saved {str(outputs.html)!r}.")
    return 1 if found.failed else 0


def verify(task: VerifyPairTask, outputs: Annotated[ListOutputs, Only("format", "quiet")]) -> int:
    """Say how alike two images are, and with --calibration, whether they show the same.

    The exit status is 0 for the same (or without a calibration), and 3 for different images.
    """
    from effnet_cli.search import formats, table, verify

    with open_output(outputs) as out:
        decision = verify.verify(task, out)
        out.show(outputs.format, formats.decision_dict(decision), table.decision_lines(decision))
        if decision.calibration is None:
            out.note(
                "No threshold suits all images. Find one on your own: effnet search calibrate "
                "PAIRS.csv --output FILE.json"
            )
        else:
            out.note(table.promise_line(decision.calibration))
    return 3 if decision.is_same is False else 0


def query(task: QueryTask, outputs: QueryOutputs) -> int:
    """Find the images of an index that resemble others, or that show a class."""
    from effnet_cli.search import formats, table
    from effnet_cli.search.index import Index

    failed = 0
    with open_output(outputs) as out:
        index = Index(task.index, task.model, engine=task.engine, reporter=out)
        results = list(index.search(task.queries, task.matches))
        failed = sum(result.error is not None for result in results)
        out.rows(
            outputs.format,
            map(formats.query_row, results),
            csv=formats.query_lines(results),
            blocks=table.match_blocks(results),
        )
        if outputs.html is not None:
            from effnet_cli.search.page import matches_page

            with index.open() as opened:
                out.page(matches_page(opened, results), outputs.html)
            out.note(f"Saved {str(outputs.html)!r}.")
    return 1 if failed else 0
