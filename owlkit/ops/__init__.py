"""Tensor operations on boxes: formats, overlaps and non-maximum suppression."""

from owlkit.ops.boxes import (
    box_iou,
    cxcywh_to_xyxy,
    generalized_box_iou,
    paired_generalized_box_iou,
    xyxy_to_cxcywh,
)
from owlkit.ops.nms import batched_nms, nms, soft_nms

__all__ = [
    "batched_nms",
    "box_iou",
    "cxcywh_to_xyxy",
    "generalized_box_iou",
    "nms",
    "paired_generalized_box_iou",
    "soft_nms",
    "xyxy_to_cxcywh",
]
