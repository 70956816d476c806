"""Image and text towers, and the tokenizer."""

from owlkit.encoders.text import TextTower, create_text_tower
from owlkit.encoders.vision import VisionTower

__all__ = ["TextTower", "VisionTower", "create_text_tower"]
