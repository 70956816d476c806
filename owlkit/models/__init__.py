"""Models and the heads of their training: stateless modules, loading and saving."""

from owlkit.models.backbone import ImageBackbone
from owlkit.models.detector import OwlDetector
from owlkit.models.distillation import CropEncoder, CropOutputs
from owlkit.models.distillation_heads import DistillationHead, ProjectionHead
from owlkit.models.dual_encoder import DualEncoder

__all__ = [
    "CropEncoder",
    "CropOutputs",
    "DistillationHead",
    "DualEncoder",
    "ImageBackbone",
    "OwlDetector",
    "ProjectionHead",
]
