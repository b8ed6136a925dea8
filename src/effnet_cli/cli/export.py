"""`effnet export`."""

from effnet_cli.export.targets import TARGETS
from effnet_cli.options import ExportTask, ListOutputs
from effnet_cli.output.out import open_output
from effnet_cli.system.errors import CHECK_FAILED_STATUS

TARGETS_HELP = "\b\nFormats:\n" + "\n".join(
    f"  {name:<13} {row.form:<12} {row.use}" for name, row in TARGETS.items()
)


def export(task: ExportTask, outputs: ListOutputs) -> int:
    """Export a model for another runtime.

    The file contains class names and preprocessing. It is checked on images before it is saved: if
    its predictions differ from those of the model, it is rejected (exit status 3).
    """
    from effnet_cli.export import formats, run, table

    with open_output(outputs) as out:
        result = run.export(task, out)
        out.show(outputs.format, formats.to_dict(result), table.blocks(result))
        for line in table.notes(result):
            out.note(line)
    return 0 if result.comparison.rejection is None else CHECK_FAILED_STATUS
