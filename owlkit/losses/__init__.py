"""Losses: what is compared with what, and how much each difference counts."""

from owlkit.losses.contrastive import clip_loss, siglip_loss
from owlkit.losses.detection import DetectionLoss, DetectionLosses
from owlkit.losses.focal import focal_loss
from owlkit.losses.matching import match, matching_cost
from owlkit.losses.nt_xent import nt_xent_loss
from owlkit.losses.triplet import triplet_loss

__all__ = [
    "DetectionLoss",
    "DetectionLosses",
    "clip_loss",
    "focal_loss",
    "match",
    "matching_cost",
    "nt_xent_loss",
    "siglip_loss",
    "triplet_loss",
]
