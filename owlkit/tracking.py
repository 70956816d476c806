"""Which box of one frame shows the same object as a box of the frames before: ByteTrack.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", 2022
(https://arxiv.org/abs/2110.06864), as the package `trackers` computes it.
"""

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from owlkit.detections import Detections
from owlkit.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from trackers import ByteTrackTracker

# How many of the buffer's frames the package counts for a second, whatever the frame rate is.
_BUFFER_FRAMES_A_SECOND = 30


class Tracker:
    """Numbers the objects of a video, frame by frame.

    An object gets its number, from 1, when it is seen in a second frame in a row; until then its
    ``track_ids`` say -1. Objects of one class never continue those of another, unless the tracker
    is class-agnostic. One tracker serves one video.

    Args:
        frame_rate: Frames a second that :meth:`update` gets, above 0.
        start_score: Boxes that score less begin no object and only continue those that better
            boxes left over, in [0, 1]. Lower the detection threshold below it to make use of
            that; 0 treats all boxes alike.
        lost_s: Seconds that an object may be out of sight and keep its number.
        least_iou: Overlap with where the object is expected, from which a box is taken for it.
        class_agnostic: Whether an object may change its class.

    Raises:
        ConfigError: If a number is out of its range.
        MissingDependencyError: If `trackers` is not installed.
    """

    def __init__(
        self,
        frame_rate: float = 30.0,
        *,
        start_score: float = 0.0,
        lost_s: float = 1.0,
        least_iou: float = 0.1,
        class_agnostic: bool = False,
    ) -> None:
        for name, value, low, high in (
            ("frame_rate", frame_rate, math.ulp(0.0), 1e6),
            ("start_score", start_score, 0.0, 1.0),
            ("lost_s", lost_s, 0.0, 1e6),
            ("least_iou", least_iou, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise ConfigError(f"expected {name} in [{low:g}, {high:g}], found {value!r}")
        try:
            import trackers
        except ImportError as error:
            raise MissingDependencyError(
                f"tracking needs {error.name or 'trackers'}: pip install 'owlkit[track]'"
            ) from error
        self._make = partial(
            trackers.ByteTrackTracker,
            lost_track_buffer=round(lost_s * _BUFFER_FRAMES_A_SECOND),
            frame_rate=float(frame_rate),
            track_activation_threshold=start_score,
            high_conf_det_threshold=start_score,
            minimum_iou_threshold=least_iou,
        )
        self._class_agnostic = class_agnostic
        self._trackers: dict[int, ByteTrackTracker] = {}
        self._numbers: dict[tuple[int, int], int] = {}

    @property
    def count(self) -> int:
        """How many objects have been numbered."""
        return len(self._numbers)

    def update(self, detections: Detections) -> Detections:
        """Takes the next frame.

        Args:
            detections: What was found in it; may be nothing, and must be said then too.

        Returns:
            The same detections in the same order, with ``track_ids``.
        """
        groups = np.zeros_like(detections.labels) if self._class_agnostic else detections.labels
        for group in np.unique(groups).tolist():
            if group not in self._trackers:
                self._trackers[group] = self._make()
        track_ids = np.full(len(detections), -1, dtype=np.int64)
        # Those without a box, too: their objects grow older.
        for group, tracker in self._trackers.items():
            rows = np.flatnonzero(groups == group)
            track_ids[rows] = self._update_group(group, tracker, detections, rows)
        return replace(detections, track_ids=track_ids)

    def _update_group(
        self,
        group: int,
        tracker: "ByteTrackTracker",
        detections: Detections,
        rows: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """The numbers [K] of the boxes in these rows [K]."""
        import supervision

        tracked = tracker.update(
            supervision.Detections(
                # The package may change what it is given.
                xyxy=detections.boxes[rows].astype(np.float64),
                confidence=detections.scores[rows].copy(),
                # Boxes come back in another order; this tells which is which.
                class_id=np.arange(len(rows)),
            )
        )
        assert tracked.class_id is not None
        assert tracked.tracker_id is not None
        numbers = np.full(len(rows), -1, dtype=np.int64)
        for row, track in zip(tracked.class_id, tracked.tracker_id, strict=True):
            if track >= 0:
                key = (group, int(track))
                numbers[row] = self._numbers.setdefault(key, len(self._numbers) + 1)
        return numbers
