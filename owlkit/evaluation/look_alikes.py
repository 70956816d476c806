"""What is taken for something else: false positives on the objects of another class.

Shapes: N detections, C classes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from owlkit.data.coco import ImageRecord
from owlkit.detections import Detections
from owlkit.evaluation.operating_points import Target, choose_threshold
from owlkit.selection import passes
from owlkit.suppression import box_iou

_SAME_OBJECT = 0.5


@dataclass(frozen=True, eq=False)
class Confusion:
    """Detections of a labelled set, and what they lie on.

    Attributes:
        scores: [N].
        asked: Class that each was found as [N].
        shown: Class of the object that it takes: one of its own class if there is one that no
            better detection of that class took, else that of the object it overlaps most; -1 where
            it overlaps none by an IoU of 0.5 [N].
        objects: Number of objects of each class [C].
    """

    scores: NDArray[np.float32]
    asked: NDArray[np.int64]
    shown: NDArray[np.int64]
    objects: NDArray[np.int64]

    def thresholds(self, target: Target) -> NDArray[np.float64]:
        """The threshold of each class that serves the target [C]."""
        limits = []
        for label, objects in enumerate(self.objects.tolist()):
            mine = self.asked == label
            is_true = self.shown[mine] == label
            limits.append(choose_threshold(self.scores[mine], is_true, objects, target).threshold)
        return np.array(limits)

    def look_alikes(self, thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
        """The class most often taken for each class; -1 for none [C]."""
        found = [self._taken(label, limit) for label, limit in enumerate(thresholds)]
        return np.array([int(one.argmax()) if one.any() else -1 for one in found])

    def counts(
        self, thresholds: NDArray[np.float64], look_alikes: NDArray[np.int64]
    ) -> tuple[int, int]:
        """True positives of all classes, and false positives on their look-alikes."""
        passed = passes(self.scores, thresholds[self.asked])
        true = int((passed & (self.shown == self.asked)).sum())
        rivals = look_alikes[self.asked]
        return true, int((passed & (rivals >= 0) & (self.shown == rivals)).sum())

    def _taken(self, label: int, threshold: float) -> NDArray[np.int64]:
        passed = (self.asked == label) & passes(self.scores, threshold) & (self.shown >= 0)
        taken = np.bincount(self.shown[passed], minlength=len(self.objects))
        taken[label] = 0
        return taken


def find_confusion(
    found: Iterable[tuple[ImageRecord, Detections]], classes: Sequence[int]
) -> Confusion:
    """Says of each detection what it lies on.

    Args:
        found: Labelled images and what was found in them; labels of detections are rows of
            ``classes``.
        classes: The data set's label of each class that was asked for, C of them.
    """
    row_of = {label: row for row, label in enumerate(classes)}
    parts = []
    objects = np.zeros(len(classes), np.int64)
    for record, detections in found:
        truth = np.array([row_of.get(label, -1) for label in record.labels.tolist()], np.int64)
        objects += np.bincount(truth[truth >= 0], minlength=len(classes))
        shown = _shown(detections, record.boxes, truth)
        parts.append((detections.scores, detections.labels, shown))
    scores, asked, shown = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Confusion(scores, asked, shown, objects)


def _shown(
    detections: Detections, boxes: NDArray[np.float32], truth: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The class that each detection lies on [N], by descending score."""
    shown = np.full(len(detections), -1)
    if not len(boxes):
        return shown
    overlaps = box_iou(detections.boxes, boxes)
    taken = np.zeros(len(boxes), bool)
    for row, label in enumerate(detections.labels):
        own = np.where((truth == label) & ~taken, overlaps[row], 0)
        if own.max() >= _SAME_OBJECT:
            taken[own.argmax()] = True
            shown[row] = label
            continue
        others = np.where(truth == label, 0, overlaps[row])
        if others.max() >= _SAME_OBJECT:
            shown[row] = truth[others.argmax()]
    return shown
