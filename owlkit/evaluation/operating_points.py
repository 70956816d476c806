"""Which threshold to use: by F1, by precision or by recall.

Shapes: N detections.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import ConfigError
from owlkit.selection import passes


@dataclass(frozen=True)
class Target:
    """What a threshold is chosen for.

    Attributes:
        kind: ``f1``: the highest F1. ``precision``: the least threshold with a precision of at
            least ``level``. ``recall``: the highest threshold with a recall of at least ``level``.
        level: In (0, 1]; not used by F1.

    Raises:
        ConfigError: If one of them is anything else.
    """

    kind: Literal["f1", "precision", "recall"] = "f1"
    level: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("f1", "precision", "recall") or not 0 < self.level <= 1:
            raise ConfigError(
                "expected f1, precision=LEVEL or recall=LEVEL with a level in (0, 1], found "
                f"{self.kind}={self.level}"
            )

    @classmethod
    def parse(cls, text: str) -> "Target | None":
        """Reads ``f1``, ``precision=0.9``, ``recall=0.9`` or ``none``.

        Raises:
            ConfigError: If it is anything else.
        """
        if text == "none":
            return None
        kind, equals, level = text.partition("=")
        try:
            if kind == "f1" and not equals:
                return cls()
            if kind == "precision":
                return cls("precision", float(level))
            if kind == "recall":
                return cls("recall", float(level))
        except ValueError:
            pass
        raise ConfigError(
            f"expected f1, precision=LEVEL, recall=LEVEL or none as the target of thresholds, "
            f"found {text!r}"
        )

    def __str__(self) -> str:
        return self.kind if self.kind == "f1" else f"{self.kind}={self.level:g}"


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold does to a set of detections.

    Attributes:
        threshold: Scores must be strictly above, where 0 lets every score through; a float32
            number.
        precision: Share of the detections above it that are right; 1 if there are none.
        recall: Share of the objects that they find; 1 if there are none.
        reached: Whether what was asked for could be had.
    """

    threshold: float
    precision: float
    recall: float
    reached: bool = True

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def choose_threshold(
    scores: NDArray[np.float32], is_true: NDArray[np.bool_], objects: int, target: Target
) -> OperatingPoint:
    """Chooses the threshold of one class, or of all together.

    It lies halfway between two neighbouring scores. Where a precision cannot be reached, the
    threshold of the highest precision is taken; where a recall cannot, the one that lets everything
    through that was measured.

    Args:
        scores: Calibrated probabilities [N].
        is_true: Which detections took an object [N]; each object is taken at most once.
        objects: How many objects there were to find, found or not.
        target: What to choose it for.
    """
    if not len(scores):
        return OperatingPoint(1.0, 1.0, float(objects == 0), target.kind == "precision")
    order = np.argsort(-scores, kind="stable")
    ranked, right = scores[order].astype(np.float32), np.cumsum(is_true[order])
    # Equal scores pass together.
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
    true, kept = right[last], last + 1
    precision, recall = true / kept, true / max(objects, 1)
    place, reached = _place(precision, recall, 2 * true / (kept + objects), target)
    upper = ranked[last[place]]
    # Below the last one nothing was measured, so that the threshold stays right beneath it.
    lower = ranked[last[place + 1]] if place + 1 < len(last) else np.nextafter(upper, np.float32(0))
    middle = np.float32((np.float64(lower) + np.float64(upper)) / 2)
    threshold = float(middle if middle < upper else lower)
    return OperatingPoint(threshold, float(precision[place]), float(recall[place]), reached)


def _place(
    precision: NDArray[np.float64],
    recall: NDArray[np.float64],
    f1: NDArray[np.float64],
    target: Target,
) -> tuple[int, bool]:
    """Which of the candidates, highest threshold first, is the one; and whether it is good."""
    if target.kind == "f1":
        return int(np.argmax(f1)), True
    if target.kind == "precision":
        good = np.flatnonzero(precision >= target.level)
        return (int(good[-1]), True) if good.size else (int(np.argmax(precision)), False)
    good = np.flatnonzero(recall >= target.level)
    return (int(good[0]), True) if good.size else (len(recall) - 1, False)


def measure_threshold(
    scores: NDArray[np.float32], is_true: NDArray[np.bool_], objects: int, threshold: float
) -> OperatingPoint:
    """What a threshold does to detections; arguments as of :func:`choose_threshold`."""
    passed = passes(scores, threshold)
    kept, true = int(passed.sum()), int((passed & is_true).sum())
    return OperatingPoint(
        threshold=threshold,
        precision=true / kept if kept else 1.0,
        recall=true / objects if objects else 1.0,
    )
