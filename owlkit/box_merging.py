"""One box for each object: what a selection says of overlapping boxes.

Shapes: N boxes, K kept. Boxes are xyxy (x0, y0, x1, y1) in any unit.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from owlkit.box_fusion import fuse_boxes
from owlkit.selection import Selection, passes
from owlkit.suppression import batched_nms, soft_nms

_NMS_IOU = 0.5
_SOFT_NMS_IOU = 0.3
_FUSION_IOU = 0.55

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


def merge_boxes(
    boxes: NDArray[Any], scores: Floats, labels: Indices, selection: Selection
) -> tuple[Floats, Floats, Indices]:
    """Suppresses, decays or fuses overlapping boxes, inside each class or across classes.

    Args:
        boxes: xyxy [N, 4].
        scores: [N].
        labels: Class of each box [N].
        selection: Says how. Where it gives no IoU, NMS takes 0.5, linear soft-NMS 0.3 and box
            fusion 0.55.

    Returns:
        Boxes [K, 4], scores [K] and labels [K] by descending score. Scores that were lowered still
        pass the selection's threshold.
    """
    iou, agnostic = selection.nms_iou, selection.class_agnostic
    if selection.box_fusion:
        fused, lowered, labels = fuse_boxes(
            boxes, scores, labels, _FUSION_IOU if iou is None else iou, class_agnostic=agnostic
        )
        return _passed(fused, lowered, labels, selection)
    classes = np.zeros_like(labels) if agnostic else labels
    if selection.soft_nms is None:
        kept = batched_nms(boxes, scores, classes, _NMS_IOU if iou is None else iou)
        return boxes[kept].astype(np.float32), scores[kept], labels[kept]
    kept, lowered = soft_nms(
        boxes,
        scores,
        method=selection.soft_nms,
        iou_threshold=_SOFT_NMS_IOU if iou is None else iou,
        score_threshold=float(np.min(selection.threshold, initial=1)),
        classes=classes,
    )
    return _passed(boxes[kept], lowered, labels[kept], selection)


def _passed(
    boxes: NDArray[Any], lowered: NDArray[np.float64], labels: Indices, selection: Selection
) -> tuple[Floats, Floats, Indices]:
    """What still has a sufficient score; of a fused box that of the class that gives the label."""
    scores = lowered.astype(np.float32)
    limits = np.asarray(selection.threshold)
    passed = passes(scores, limits if limits.ndim == 0 else limits[labels])
    return boxes[passed].astype(np.float32), scores[passed], labels[passed]
