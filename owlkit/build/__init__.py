"""From configuration to objects; the only part that knows all the others."""

from owlkit.build.contrastive import build_contrastive_training
from owlkit.build.detection import build_detector_training
from owlkit.build.detector import build_detector
from owlkit.build.dual_encoder import build_dual_encoder
from owlkit.build.self_supervised import build_self_supervised_training
from owlkit.build.self_supervised_tasks import build_backbone

__all__ = [
    "build_backbone",
    "build_contrastive_training",
    "build_detector",
    "build_detector_training",
    "build_dual_encoder",
    "build_self_supervised_training",
]
