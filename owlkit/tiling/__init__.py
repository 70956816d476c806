"""Large images: a detector runs on overlapping tiles, and what they show is put together again."""

from owlkit.tiling.detection import detect_tiles
from owlkit.tiling.plan import Tiling, View

__all__ = ["Tiling", "View", "detect_tiles"]
