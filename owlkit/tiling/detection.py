"""Detection on overlapping tiles: what they show, moved to the image and merged."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from owlkit.box_merging import merge_boxes
from owlkit.detections import Detections
from owlkit.errors import DetectionsError
from owlkit.selection import Selection
from owlkit.tiling.cut_boxes import Pieces, complete, sides_cut
from owlkit.tiling.plan import Tiling, View

DetectViews = Callable[[list[NDArray[np.uint8]], Selection], list[Detections]]

_Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]

_NMS_IOU = 0.5


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
    found: list[_Arrays] = []
    names: dict[int, str] = {}
    for start in range(0, len(views), batch_size):
        batch = views[start : start + batch_size]
        results = detect([image[y0:y1, x0:x1] for x0, y0, x1, y1 in batch], within)
        if len(results) != len(batch):
            raise DetectionsError(
                f"expected detections for each of {len(batch)} tiles, found {len(results)}"
            )
        for one in results:
            names.update(zip(one.labels.tolist(), one.names, strict=True))
            found.append((one.boxes, one.scores, one.labels))
    pieces = complete(_as_pieces(found, views, image_size), class_agnostic=selection.class_agnostic)
    boxes, scores, labels = merge_boxes(pieces.boxes, pieces.scores, pieces.labels, selection)
    best = np.argsort(-scores, kind="stable")[: selection.top_k]
    return Detections(
        boxes=boxes[best],
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
    found: Sequence[_Arrays], views: Sequence[View], image_size: tuple[int, int]
) -> Pieces:
    boxes, scores, labels = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    counts = [len(one) for _, one, _ in found]
    spans = np.repeat(np.array(views, dtype=np.float64), counts, axis=0)
    # Rounded before they are compared, so that no two results overlap by more than was allowed.
    boxes = (boxes + np.tile(spans[:, :2], 2)).astype(np.float32).astype(np.float64)
    return Pieces(
        boxes=boxes,
        scores=scores,
        labels=labels,
        view=np.repeat(np.arange(len(views)), counts),
        spans=spans,
        cut=sides_cut(boxes, spans, image_size),
    )
