"""Fine-tuning: learn new classes on top of a pretrained model."""

from effnet_cli.finetune.records import Epoch, Trained
from effnet_cli.finetune.run import finetune
from effnet_cli.finetune.run_dir import resumed
from effnet_cli.finetune.signals import Stopped

__all__ = ["Epoch", "Stopped", "Trained", "finetune", "resumed"]
