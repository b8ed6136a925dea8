"""Export: a model as a file for another runtime."""

from effnet_cli.export.agreement import Form
from effnet_cli.export.run import ExportResult, export

__all__ = ["ExportResult", "Form", "export"]
