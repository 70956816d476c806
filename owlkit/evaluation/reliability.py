"""How far probabilities can be trusted: calibration error, Brier score, likelihood.

Shapes: N pairs, M bins.

- [0]: On Calibration of Modern Neural Networks, Guo et al. 2017, https://arxiv.org/abs/1706.04599
- [1]: Measuring Calibration in Deep Learning, Nixon et al. 2019, https://arxiv.org/abs/1904.01685
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from owlkit.errors import DetectionsError

BINS = 15
"""Guo et al.'s number of bins [0]."""


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """Probabilities, sorted into bins; empty bins are left out.

    Attributes:
        counts: Pairs in each bin, at least 1 [M].
        confidence: Mean probability in each [M].
        accuracy: Share that is true in each [M].
        edges: Lowest and highest probability of each, which for bins of equal width are their
            borders [M, 2].
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    edges: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: mean distance of accuracy and confidence."""
        if not len(self.counts):
            return 0.0
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.counts))


def reliability_bins(
    probabilities: ArrayLike, is_true: ArrayLike, *, bins: int = BINS, adaptive: bool = False
) -> ReliabilityBins:
    """Sorts probabilities into bins.

    Args:
        probabilities: In [0, 1] [N].
        is_true: What they are the probabilities of [N].
        bins: How many, at least 1.
        adaptive: Bins of equally many pairs [1] instead of equal width [0]; equal probabilities
            may then stand in two bins.

    Raises:
        DetectionsError: If the two have different lengths, or a probability is outside [0, 1].
    """
    values, truth = _checked(probabilities, is_true)
    order = np.argsort(values, kind="stable")
    values, truth = values[order], truth[order]
    if adaptive:
        member = np.arange(len(values)) * bins // max(len(values), 1)
    else:
        # Bins are open below and closed above, as in the paper.
        member = np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(member, minlength=bins)
    used = np.flatnonzero(counts)
    ends = np.cumsum(counts)[used]
    edges = np.stack([used / bins, (used + 1) / bins], axis=1)
    if adaptive:
        edges = np.stack([values[ends - counts[used]], values[ends - 1]], axis=1)
    return ReliabilityBins(
        counts=counts[used],
        confidence=np.bincount(member, values, minlength=bins)[used] / counts[used],
        accuracy=np.bincount(member, truth, minlength=bins)[used] / counts[used],
        edges=edges,
    )


def expected_calibration_error(
    probabilities: ArrayLike, is_true: ArrayLike, *, bins: int = BINS, adaptive: bool = False
) -> float:
    """The mean distance between what probabilities promise and what is true [0], in [0, 1].

    Args:
        probabilities: See :func:`reliability_bins`, like all others.
        is_true: See there.
        bins: See there.
        adaptive: See there.

    Raises:
        DetectionsError: See there.

    Example:
        >>> expected_calibration_error([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 0])
        0.0
        >>> expected_calibration_error([0.75, 0.75, 0.75, 0.75], [0, 0, 1, 1])
        0.25
    """
    return reliability_bins(probabilities, is_true, bins=bins, adaptive=adaptive).error


def brier_score(probabilities: ArrayLike, is_true: ArrayLike) -> float:
    """The mean squared distance of probabilities to what is true (Brier 1950); 0 for none.

    Raises:
        DetectionsError: See :func:`reliability_bins`.
    """
    values, truth = _checked(probabilities, is_true)
    return float(np.mean((values - truth) ** 2)) if len(values) else 0.0


def _checked(
    probabilities: ArrayLike, is_true: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, truth = np.asarray(probabilities, np.float64), np.asarray(is_true, np.float64)
    if values.ndim != 1 or values.shape != truth.shape:
        raise DetectionsError(
            f"expected probabilities and truth [N], found shapes {list(values.shape)} and "
            f"{list(truth.shape)}"
        )
    outside = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if outside.size:
        row = outside[0]
        raise DetectionsError(f"expected probabilities in [0, 1], found {values[row]} at [{row}]")
    return values, truth
