"""Synthetic scenes: coloured shapes with boxes and captions, for runs without any other data."""

from owlkit.data.scenes.scene import Scene, draw_scene
from owlkit.data.scenes.tiers import TIERS, Tier
from owlkit.data.scenes.vocabulary import BASE, CLASS_NAMES, COLOURS, NOVEL, SHAPES
from owlkit.data.scenes.writer import ScenesSummary, make_scenes

__all__ = [
    "BASE",
    "CLASS_NAMES",
    "COLOURS",
    "NOVEL",
    "SHAPES",
    "TIERS",
    "Scene",
    "ScenesSummary",
    "Tier",
    "draw_scene",
    "make_scenes",
]
