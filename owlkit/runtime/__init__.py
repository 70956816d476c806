"""Exported models on ONNX Runtime; needs no torch."""

from owlkit.runtime.backend import OnnxBackend
from owlkit.runtime.dual_encoder import OnnxDualEncoder
from owlkit.runtime.manifest import is_exported
from owlkit.runtime.opening import ModelOptions, open_exported
from owlkit.runtime.session import Provider
from owlkit.runtime.tokenizer import RuntimeTokenizer

__all__ = [
    "ModelOptions",
    "OnnxBackend",
    "OnnxDualEncoder",
    "Provider",
    "RuntimeTokenizer",
    "is_exported",
    "open_exported",
]
