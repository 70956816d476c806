"""Detection on overlapping tiles: what they show, moved to the image and merged."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from owlkit.box_fusion import fuse_boxes
from owlkit.detections import Detections
from owlkit.errors import DetectionsError
from owlkit.postprocess import Selection
from owlkit.suppression import batched_nms, soft_nms
from owlkit.tiling.cut_boxes import Pieces, complete, sides_cut
from owlkit.tiling.plan import Tiling, View

DetectViews = Callable[[list[NDArray[np.uint8]], Selection], list[Detections]]

_NMS_IOU = 0.5
_SOFT_NMS_IOU = 0.3
_FUSION_IOU = 0.55


def detect_tiles(
    detect: DetectViews,
    image: NDArray[np.uint8],
    tiling: Tiling,
    input_size: tuple[int, int],
    *,
    batch_size: int,
    selection: Selection,
) -> Detections:
    """Detects on every view of an image and merges what was found.

    Of the views nothing but detections is kept, so memory does not grow with their number. A box
    that a tile's inner edge cuts gives way to the box of another view that shows the object
    completely; pieces of an object larger than the overlap become one box (see
    :func:`owlkit.tiling.cut_boxes.complete`).

    Args:
        detect: Detects in a list of uint8 arrays [h, w, 3], which are parts of `image` and not
            copies, and selects in each what it is told.
        image: uint8 [h, w, 3].
        tiling: How the image is cut.
        input_size: Height and width of the model's input in pixels.
        batch_size: Views given to `detect` at a time, at least 1.
        selection: How the boxes of all views are merged: NMS (IoU 0.5 where it says None), soft-NMS
            or box fusion, inside each class or across classes, and ``top_k``.

    Returns:
        Detections in pixels of the image, by descending score; `image` is their source.

    Raises:
        ImageError: If the image has no pixels.
        DetectionsError: If `detect` does not return one result for each view.
    """
    image_size = (image.shape[0], image.shape[1])
    views, within = tiling.plan(image_size, input_size), _within_view(selection)
    found: list[Detections] = []
    for start in range(0, len(views), batch_size):
        batch = views[start : start + batch_size]
        results = detect([image[y0:y1, x0:x1] for x0, y0, x1, y1 in batch], within)
        if len(results) != len(batch):
            raise DetectionsError(
                f"expected detections for each of {len(batch)} tiles, found {len(results)}"
            )
        # Or else tiles that were copied would stay in memory.
        found += [one.without_source() for one in results]
    names = {
        label: name
        for one in found
        for label, name in zip(one.labels.tolist(), one.names, strict=True)
    }
    pieces = complete(_as_pieces(found, views, image_size), class_agnostic=selection.class_agnostic)
    boxes, scores, labels = _merged(pieces, selection)
    best = np.argsort(-scores, kind="stable")[: selection.top_k]
    return Detections(
        boxes=boxes[best].astype(np.float32),
        scores=scores[best],
        labels=labels[best],
        names=tuple(names[label] for label in labels[best].tolist()),
        image_size=image_size,
        source=image,
    )


def _within_view(selection: Selection) -> Selection:
    """What to select inside each view when `selection` is meant for the image.

    Nothing is cut to ``top_k`` before all views are known, and what lowers scores or averages boxes
    happens once, over all of them.
    """
    if selection.soft_nms is not None or selection.box_fusion:
        return replace(selection, nms_iou=None, soft_nms=None, box_fusion=False, top_k=None)
    nms_iou = _NMS_IOU if selection.nms_iou is None else selection.nms_iou
    return replace(selection, nms_iou=nms_iou, top_k=None)


def _as_pieces(
    found: Sequence[Detections], views: Sequence[View], image_size: tuple[int, int]
) -> Pieces:
    counts = [len(one) for one in found]
    spans = np.repeat(np.array(views, dtype=np.float64), counts, axis=0)
    boxes = np.concatenate([one.boxes for one in found]) + np.tile(spans[:, :2], 2)
    return Pieces(
        boxes=boxes,
        scores=np.concatenate([one.scores for one in found]),
        labels=np.concatenate([one.labels for one in found]),
        view=np.repeat(np.arange(len(views)), counts),
        spans=spans,
        cut=sides_cut(boxes, spans, image_size),
    )


def _merged(
    pieces: Pieces, selection: Selection
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.int64]]:
    """Boxes, scores and labels after the suppression that the selection asks for."""
    boxes, scores, labels = pieces.boxes, pieces.scores, pieces.labels
    iou = selection.nms_iou
    classes = np.zeros_like(labels) if selection.class_agnostic else labels
    limits = np.asarray(selection.threshold, dtype=np.float32)
    if selection.box_fusion:
        iou = _FUSION_IOU if iou is None else iou
        agnostic = selection.class_agnostic
        boxes, lowered, labels = fuse_boxes(boxes, scores, labels, iou, class_agnostic=agnostic)
    elif selection.soft_nms is not None:
        kept, lowered = soft_nms(
            boxes,
            scores,
            method=selection.soft_nms,
            iou_threshold=_SOFT_NMS_IOU if iou is None else iou,
            score_threshold=float(limits.min(initial=1)),
            classes=classes,
        )
        boxes, labels = boxes[kept], labels[kept]
    else:
        kept = batched_nms(boxes, scores, classes, _NMS_IOU if iou is None else iou)
        return boxes[kept], scores[kept], labels[kept]
    # Scores that were lowered must pass the threshold once more.
    scores = lowered.astype(np.float32)
    limit = np.broadcast_to(limits, limits.shape or labels.max(initial=0) + 1)[labels]
    passed = (scores > limit) | (limit == 0)
    return boxes[passed], scores[passed], labels[passed]
