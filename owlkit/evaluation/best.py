"""The best detections of each class over all images, while there are ever more.

Shapes: Q classes, N detections.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from owlkit.detections import Detections
from owlkit.evaluation.matching import place_in_run

_ROOM = 1_000_000
"""So many detections come together before the worst go, which takes a moment."""


@dataclass(eq=False)
class BestOfClasses:
    """Keeps the ``limit`` highest scores of each class, without looking at images.

    Attributes:
        thresholds: Only scores above can still be among the best of a class [Q], float32; changed
            in place.
        limit: Most detections of each class, at least 1.
        room: Detections above those that were left last time before the worst go again.
    """

    thresholds: NDArray[np.float32]
    limit: int
    room: int = _ROOM
    _kept: list[Detections] = field(default_factory=list)
    _count: int = 0
    _most: int = 0

    def __post_init__(self) -> None:
        self._most = self.room

    def add(self, found: Detections) -> None:
        """Takes the detections of one more image."""
        self._kept.append(found)
        self._count += len(found)
        if self._count > self._most:
            self._drop_worst()
            self._most = self._count + self._count // 2 + self.room

    def finish(self) -> list[Detections]:
        """What is left of each image, in the order of the images."""
        if self._kept:
            self._drop_worst()
        return self._kept

    def _drop_worst(self) -> None:
        labels = np.concatenate([found.labels for found in self._kept])
        scores = np.concatenate([found.scores for found in self._kept])
        # Of equal scores the earlier one is the better, as for all metrics.
        order = np.lexsort((-scores, labels))
        place = place_in_run(labels[order])
        last = order[place == self.limit - 1]
        self.thresholds[labels[last]] = scores[last]
        best = np.zeros(len(labels), np.bool_)
        best[order[place < self.limit]] = True
        ends = np.cumsum([len(found) for found in self._kept])[:-1]
        parts = np.split(best, ends)
        self._kept = [found[part] for found, part in zip(self._kept, parts, strict=True)]
        self._count = int(best.sum())
