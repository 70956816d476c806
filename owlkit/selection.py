"""What a caller wants of all (box, query) pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from owlkit.errors import QueryError

Threshold = float | Sequence[float] | NDArray[np.floating[Any]]

DEFAULT_THRESHOLD = 0.1
"""Where nobody says what score is enough."""


@dataclass(frozen=True)
class Selection:
    """Which of all (box, query) pairs become detections.

    Attributes:
        threshold: Scores must be strictly above; in [0, 1]. One number, or one for each query.
        nms_iou: Of two boxes that overlap by more than this IoU only the better one stays; in
            [0, 1]. None switches NMS off.
        class_agnostic: Whether boxes of different queries suppress each other too.
        soft_nms: Lower the scores of overlapping boxes instead of dropping them ("linear" or
            "gaussian"). ``nms_iou`` is then the overlap that "linear" leaves alone (None: 0.3).
        top_k: At most so many detections, the best ones; None for all.
        one_label_per_box: Only the best query of each box takes part, as in the processors of
            `transformers`. Otherwise a box may be found by several queries.
        box_fusion: Average overlapping boxes instead of dropping them; see
            :func:`owlkit.box_fusion.fuse_boxes`. ``nms_iou`` is then the overlap that joins boxes
            (None: 0.55); excludes ``soft_nms``.

    Raises:
        QueryError: If a value is out of its range or two contradict each other.
    """

    threshold: Threshold = DEFAULT_THRESHOLD
    nms_iou: float | None = None
    class_agnostic: bool = False
    soft_nms: Literal["linear", "gaussian"] | None = None
    top_k: int | None = None
    one_label_per_box: bool = False
    box_fusion: bool = False

    def __post_init__(self) -> None:
        limits = checked_threshold(self.threshold).tolist()
        # A tuple, because a frozen object that holds an array can be neither compared nor hashed.
        object.__setattr__(
            self, "threshold", tuple(limits) if isinstance(limits, list) else float(limits)
        )
        _check_nms_iou(self.nms_iou)
        if self.soft_nms not in (None, "linear", "gaussian"):
            raise QueryError(f"expected soft_nms 'linear' or 'gaussian', found {self.soft_nms!r}")
        if self.box_fusion and self.soft_nms is not None:
            raise QueryError(
                f"expected soft_nms or box_fusion, found both ({self.soft_nms!r} and "
                f"{self.box_fusion!r})"
            )
        check_top_k(self.top_k)


def checked_threshold(threshold: Threshold) -> NDArray[np.float64]:
    """The threshold as an array of no or one dimension.

    Raises:
        QueryError: If it is neither a number in [0, 1] nor a list of them.
    """
    try:
        checked = np.asarray(threshold, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise QueryError(f"expected a threshold in [0, 1], found {threshold!r}") from error
    if checked.ndim > 1:
        raise QueryError(
            f"expected one threshold, or one per query, found shape {list(checked.shape)}"
        )
    outside = checked[~((checked >= 0) & (checked <= 1))]
    if outside.size:
        raise QueryError(f"expected a threshold in [0, 1], found {outside.flat[0]}")
    return checked


def passes(scores: NDArray[np.float32], thresholds: ArrayLike) -> NDArray[np.bool_]:
    """Which scores [N] one threshold, or one for each [N], lets through.

    Compared as float32 numbers, strictly; the threshold 0 lets every score through.
    """
    limits = np.asarray(thresholds, dtype=np.float32)
    passed: NDArray[np.bool_] = (scores > limits) | (limits == 0)
    return passed


def _check_nms_iou(nms_iou: float | None) -> None:
    try:
        fits = nms_iou is None or bool(0 <= nms_iou <= 1)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise QueryError(f"expected nms_iou in [0, 1] or None, found {nms_iou!r}")


def check_top_k(top_k: int | None) -> None:
    """Raises QueryError unless it is None or an integer of at least 1."""
    if top_k is not None and not (isinstance(top_k, int | np.integer) and top_k >= 1):
        raise QueryError(f"expected top_k to be an integer of at least 1 or None, found {top_k!r}")
