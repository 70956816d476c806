"""Losses: what is compared with what, and how much each difference counts."""

from owlkit.losses.contrastive import clip_loss
from owlkit.losses.detection import DetectionLoss, DetectionLosses
from owlkit.losses.focal import focal_loss
from owlkit.losses.matching import match, matching_cost

__all__ = [
    "DetectionLoss",
    "DetectionLosses",
    "clip_loss",
    "focal_loss",
    "match",
    "matching_cost",
]
