"""ONNX export that proves itself."""

from owlkit.export.detector import ExportReport, Step, export_detector
from owlkit.export.dual_encoder import export_dual_encoder
from owlkit.export.parity import Parity, Tolerance

__all__ = ["ExportReport", "Parity", "Step", "Tolerance", "export_detector", "export_dual_encoder"]
