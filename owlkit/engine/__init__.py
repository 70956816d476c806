"""The training loop and what surrounds it."""

from accelerate import Accelerator  # type: ignore[import-untyped]

from owlkit.engine.accelerator import create_accelerator, share_of_batch
from owlkit.engine.byol import ByolTask
from owlkit.engine.collapse import CollapseWatch
from owlkit.engine.contrastive import ContrastiveTask
from owlkit.engine.detection import DetectionTask
from owlkit.engine.distillation import DistillationTask
from owlkit.engine.masked_autoencoding import MaskedAutoencodingTask
from owlkit.engine.objectives import (
    Objective,
    clip_objective,
    siglip_objective,
    triplet_objective,
)
from owlkit.engine.run import Evaluation, RunOutput, RunState, TrainingSummary
from owlkit.engine.run_log import RunLog
from owlkit.engine.simclr_head import SimclrHead
from owlkit.engine.stop_request import StopRequest
from owlkit.engine.trainer import Trainer, evaluation_mode

__all__ = [
    "Accelerator",
    "ByolTask",
    "CollapseWatch",
    "ContrastiveTask",
    "DetectionTask",
    "DistillationTask",
    "Evaluation",
    "MaskedAutoencodingTask",
    "Objective",
    "RunLog",
    "RunOutput",
    "RunState",
    "SimclrHead",
    "StopRequest",
    "Trainer",
    "TrainingSummary",
    "clip_objective",
    "create_accelerator",
    "evaluation_mode",
    "share_of_batch",
    "siglip_objective",
    "triplet_objective",
]
