"""Dual encoders and the detector: stateless modules, loading and saving."""

from owlkit.models.detector import OwlDetector
from owlkit.models.dual_encoder import DualEncoder

__all__ = ["DualEncoder", "OwlDetector"]
