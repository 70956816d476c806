"""How the cost of a path grows with its input, and how fast: seconds at several sizes."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.clock import seconds
from benchmarks.table import line

MOST_REPEATS = 3  # of curves whose upper points take seconds
_LEAST_FITTED = 3


@dataclass(frozen=True)
class Curve:
    """One line of a plot; nothing is compared, so there is neither peer nor ratio.

    Attributes:
        path: Name of the measurement; curves of one path share a plot.
        curve: What is measured against what.
        series: Which of several curves of the path; empty if it is the only one.
        settings: Model, sizes, what stays the same.
        x_label: What grows, with its unit.
        x: Sizes, ascending.
        seconds: Median of each size.
        spread: Range of the seconds over their median, of the size where it is largest.
        exponent: Of the growth, see :func:`growth_exponent`.
        fitted_from: Smallest size that the exponent is fitted to.
        owlkit_s: Seconds of the largest size.
        peer: None.
        ratio: None.
    """

    path: str
    curve: str
    series: str
    settings: str
    x_label: str
    x: tuple[int, ...]
    seconds: tuple[float, ...]
    spread: float
    exponent: float
    fitted_from: int
    owlkit_s: float
    peer: None = None
    ratio: None = None


def trace(
    functions: Mapping[int, Callable[[], Any]],
    *,
    path: str,
    curve: str,
    settings: str,
    x_label: str,
    repeats: int,
    series: str = "",
) -> Curve:
    """Times functions by the size of their input and prints the row.

    After one call of each that is not timed, they are called in turn, round by round, so that a
    machine that slows down slows all sizes down.

    Args:
        functions: By size, ascending; at least three.
        path: See :class:`Curve`, like all further arguments but ``repeats``.
        curve: See there.
        settings: See there.
        x_label: See there.
        repeats: Rounds.
        series: See there.
    """
    for function in functions.values():
        function()
    rounds = [[seconds(function) for function in functions.values()] for _ in range(repeats)]
    times = [*zip(*rounds, strict=True)]
    medians = [statistics.median(one) for one in times]
    spreads = [(max(one) - min(one)) / statistics.median(one) for one in times]
    sizes = tuple(functions)
    traced = Curve(
        path=path,
        curve=curve,
        series=series,
        settings=settings,
        x_label=x_label,
        x=sizes,
        seconds=tuple(medians),
        spread=max(spreads),
        exponent=growth_exponent(sizes, medians),
        fitted_from=upper_part(sizes)[0],
        owlkit_s=medians[-1],
    )
    print(line(asdict(traced)), flush=True)
    return traced


def growth_exponent(x: Sequence[int], seconds: Sequence[float]) -> float:
    """The k of ``seconds ~ x ** k``: the slope of a least-squares line through the logarithms.

    Only the upper part counts, because below it costs that do not grow hide the growth.

    Args:
        x: Sizes, ascending, positive; at least two.
        seconds: Of each, positive.
    """
    upper = len(upper_part(x))
    slope, _ = np.polyfit(np.log(x[-upper:]), np.log(seconds[-upper:]), 1)
    return float(slope)


def upper_part(x: Sequence[int]) -> Sequence[int]:
    """The sizes that :func:`growth_exponent` is fitted to: the upper half, at least three."""
    return x[-max(len(x) // 2, _LEAST_FITTED) :]
