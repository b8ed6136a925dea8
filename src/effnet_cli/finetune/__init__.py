"""Fine-tuning: learn new classes on top of a pretrained model."""

from effnet_cli.finetune.records import Epoch, TrainingResult
from effnet_cli.finetune.run import finetune
from effnet_cli.finetune.run_dir import restore_task
from effnet_cli.finetune.signals import TrainingStopped

__all__ = ["Epoch", "TrainingStopped", "TrainingResult", "finetune", "restore_task"]
