"""What all curves of a run share: how they are smoothed and how their axes look."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

# A curve is smoothed over so much of its length to either side.
_SMOOTHED_SHARE = 1 / 40

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Steps and values."""


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moving mean, centred so that it does not lag; the window narrows towards both ends."""
    index = np.arange(len(values))
    reach = np.minimum(int(len(values) * _SMOOTHED_SHARE), np.minimum(index, index[::-1]))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    mean: NDArray[np.float64] = (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)
    return mean


def tidy(axes: Axes) -> None:
    """Whole steps along the bottom, a grid, and no frame where it is of no use."""
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.01)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
