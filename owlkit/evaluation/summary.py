"""Means of curves under the names by which COCO and LVIS report them.

Shapes: K classes, T = 10 overlap thresholds, R = 101 recalls, A = 4 area ranges. Entries of -1 (a
class without an object to find) are left out of every mean; the mean of none is -1.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from owlkit.evaluation.curves import Curves
from owlkit.evaluation.matching import AREAS, THRESHOLDS

_AT = {"AP50": 0.50, "AP75": 0.75}
_SIZES = {"s": "small", "m": "medium", "l": "large"}
_AREA_INDEX = {name: index for index, name in enumerate(AREAS)}


def mean_defined(values: NDArray[np.float64]) -> float:
    """The mean of all entries above -1; -1 if there is none."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else -1.0


def precision_metrics(precision: NDArray[np.float64]) -> dict[str, float]:
    """`AP AP50 AP75 APs APm APl` of precisions [T, R, K, A]."""
    metrics = {"AP": mean_defined(precision[..., 0])}
    for name, threshold in _AT.items():
        index = int(np.argmin(np.abs(THRESHOLDS - threshold)))
        metrics[name] = mean_defined(precision[index, ..., 0])
    for letter, size in _SIZES.items():
        metrics[f"AP{letter}"] = mean_defined(precision[..., _AREA_INDEX[size]])
    return metrics


def recall_metrics(
    recall: NDArray[np.float64], names: Sequence[str], suffix: str = ""
) -> dict[str, float]:
    """The recalls under ``names``, one for each limit (M), then `ARs ARm ARl` at the last limit.

    Args:
        recall: [T, K, A, M].
        names: Of the recalls of objects of all sizes (M).
        suffix: Follows `ARs ARm ARl`.
    """
    metrics = {name: mean_defined(recall[:, :, 0, place]) for place, name in enumerate(names)}
    for letter, size in _SIZES.items():
        metrics[f"AR{letter}{suffix}"] = mean_defined(recall[:, :, _AREA_INDEX[size], -1])
    return metrics


def class_metrics(
    curves: Curves, category_ids: Sequence[int], recall_name: str
) -> dict[int, dict[str, float]]:
    """Category id to `AP AP50 AP75 APs APm APl` and the recall at the last limit."""
    return {
        key: {
            **precision_metrics(curves.precision[:, :, [index]]),
            recall_name: mean_defined(curves.recall[:, index, 0, -1]),
        }
        for index, key in enumerate(category_ids)
    }
