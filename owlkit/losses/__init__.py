"""Losses: what is compared with what, and how much each difference counts."""

from owlkit.losses.byol import byol_loss
from owlkit.losses.contrastive import clip_loss, siglip_loss
from owlkit.losses.detection import DetectionLoss, DetectionLosses
from owlkit.losses.distillation import DinoLoss, dino_loss
from owlkit.losses.focal import focal_loss
from owlkit.losses.ibot import ibot_loss
from owlkit.losses.koleo import koleo_loss
from owlkit.losses.masked_pixels import masked_pixel_loss, patch_pixels
from owlkit.losses.matching import match, matching_cost
from owlkit.losses.nt_xent import nt_xent_loss
from owlkit.losses.sinkhorn import sinkhorn_knopp
from owlkit.losses.teacher_targets import Centering, TeacherTargets
from owlkit.losses.triplet import triplet_loss

__all__ = [
    "Centering",
    "DetectionLoss",
    "DetectionLosses",
    "DinoLoss",
    "TeacherTargets",
    "byol_loss",
    "clip_loss",
    "dino_loss",
    "focal_loss",
    "ibot_loss",
    "koleo_loss",
    "masked_pixel_loss",
    "match",
    "matching_cost",
    "nt_xent_loss",
    "patch_pixels",
    "siglip_loss",
    "sinkhorn_knopp",
    "triplet_loss",
]
