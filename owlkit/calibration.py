"""Calibration: monotone maps from a detector's logits to probabilities, with numpy alone.

A score is calibrated if of all boxes with score 0.7 about 70 % are right. A map for one query never
looks at the other queries or boxes of an image, so scores stay comparable between images.

Shapes: Q queries, N (box, query) pairs, K knots.
"""

import math
import reprlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from owlkit.errors import CheckpointError, QueryError

__all__ = ["Calibration", "QueryCalibrations"]

# Twice the largest relative step between float32 numbers: far more than the rounding of float64.
_SLACK = 2.0**-22

_KEYS = {"linear": {"kind", "scale", "bias"}, "isotonic": {"kind", "logits", "probabilities"}}

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """A non-decreasing map from logits to probabilities; without arguments the plain sigmoid.

    Made by :meth:`linear` (temperature and Platt scaling [0, 1]) or :meth:`isotonic` [2]; equal
    maps are equal and have equal hashes.

    - [0]: On Calibration of Modern Neural Networks, 2017, https://arxiv.org/abs/1706.04599
    - [1]: Probabilistic Outputs for Support Vector Machines, Platt, 1999
    - [2]: Transforming Classifier Scores into Accurate Multiclass Probability Estimates, Zadrozny
      and Elkan, 2002, https://doi.org/10.1145/775047.775151

    Attributes:
        scale: Factor of the logits, positive.
        bias: Added to the scaled logits.
        knots: Pairs (logit, probability) to interpolate instead, K of them; () for the sigmoid of
            ``scale * logit + bias``. The logits are kept as float32 numbers, as a detector's are.

    Raises:
        QueryError: If a number is not finite or out of its range, if the knots do not ascend, or
            if there are knots beside a scale or bias.
    """

    scale: float = 1.0
    bias: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        scale, bias = _number("scale", self.scale), _number("bias", self.bias)
        if scale <= 0:
            raise QueryError(f"expected a calibration's scale above 0, found {scale}")
        knots = _checked_knots(self.knots)
        if knots and (scale, bias) != (1.0, 0.0):
            raise QueryError(f"expected knots or a scale and bias, found knots, {scale} and {bias}")
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "bias", bias)
        object.__setattr__(self, "knots", knots)

    @classmethod
    def linear(cls, scale: float, bias: float = 0.0) -> "Calibration":
        """The sigmoid of ``scale * logit + bias``.

        Args:
            scale: Positive; 1 / T for temperature T.
            bias: Any finite number; 0 for temperature scaling.

        Raises:
            QueryError: If a number is not finite or the scale not positive.
        """
        return cls(scale=scale, bias=bias)

    @classmethod
    def isotonic(cls, logits: ArrayLike, probabilities: ArrayLike) -> "Calibration":
        """Straight lines between knots, constant to the left of the first and after the last.

        Args:
            logits: Of the knots [K], K >= 1, strictly ascending as float32 numbers.
            probabilities: At the knots [K], non-decreasing, in [0, 1].

        Raises:
            QueryError: If they do not ascend, are not finite, not in [0, 1] or not K of each.
        """
        x, y = (
            _vector(name, values)
            for name, values in (("logits", logits), ("probabilities", probabilities))
        )
        if len(x) != len(y) or not len(x):
            raise QueryError(
                "expected one probability for each knot's logit, at least one of each, "
                f"found {len(x)} logits and {len(y)} probabilities"
            )
        return cls(knots=tuple(zip(x, y, strict=True)))

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Probabilities in [0, 1], float32, of logits of any shape (infinite ones included)."""
        values = np.asarray(logits, dtype=np.float64)
        if not self.knots:
            return _sigmoid(values, self.scale, self.bias)
        x, y = self._table
        clipped = np.clip(values, x[0], x[-1])
        after = np.searchsorted(x, clipped, side="right").clip(max=len(x) - 1)
        before = np.maximum(after - 1, 0)
        width = np.where(after > before, x[after] - x[before], 1)
        raised = y[before] + (y[after] - y[before]) * ((clipped - x[before]) / width)
        # Rounding must not lift a point above the next knot, or the map would not be monotone.
        interpolated: Floats = np.minimum(raised, y[after]).astype(np.float32)
        return interpolated

    def least_logit(self, probability: float) -> float:
        """A logit below which no logit's probability exceeds the given one, in [0, 1].

        Comparing logits with it spares computing the probabilities of all that cannot pass. It is
        low enough to be safe from rounding: what is above may still turn out not to exceed.

        Returns:
            The logit; -inf if every logit may exceed, inf if none does.

        Raises:
            QueryError: If the probability is not in [0, 1].
        """
        # Probabilities are compared as float32 numbers.
        limit = float(np.float32(_number("probability", probability)))
        if not 0 <= limit <= 1:
            raise QueryError(f"expected a probability in [0, 1], found {probability}")
        exact = self._knot_crossing(limit) if self.knots else self._sigmoid_crossing(limit)
        return exact if math.isinf(exact) else exact - abs(exact) * _SLACK

    def _sigmoid_crossing(self, limit: float) -> float:
        if limit in (0, 1):
            return -math.inf if limit == 0 else math.inf
        return (math.log(limit) - math.log1p(-limit) - self.bias) / self.scale

    def _knot_crossing(self, limit: float) -> float:
        after = bisect_right(self.knots, limit, key=lambda knot: knot[1])
        if after in (0, len(self.knots)):
            return -math.inf if after == 0 else math.inf
        (x0, y0), (x1, y1) = self.knots[after - 1 : after + 1]
        return x0 + (x1 - x0) * ((limit - y0) / (y1 - y0))

    @cached_property
    def _table(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x, y = np.array(self.knots).T
        return np.ascontiguousarray(x), np.ascontiguousarray(y)

    def to_dict(self) -> dict[str, Any]:
        """The map ready for JSON.

        Returns:
            ``{"kind": "linear", "scale": float, "bias": float}`` or ``{"kind": "isotonic",
            "logits": [K floats], "probabilities": [K floats]}``.
        """
        if not self.knots:
            return {"kind": "linear", "scale": self.scale, "bias": self.bias}
        logits, probabilities = map(list, zip(*self.knots, strict=True))
        return {"kind": "isotonic", "logits": logits, "probabilities": probabilities}

    @classmethod
    def from_dict(cls, data: object) -> "Calibration":
        """Reads what :meth:`to_dict` wrote.

        Raises:
            CheckpointError: On anything else.
        """
        if not isinstance(data, Mapping):
            raise CheckpointError(f"expected a calibration as an object, found {_short(data)}")
        kind = data.get("kind")
        if not isinstance(kind, str) or kind not in _KEYS:
            raise CheckpointError(
                f"expected a calibration of kind 'linear' or 'isotonic', found {_short(kind)}"
            )
        if set(data) != _KEYS[kind]:
            raise CheckpointError(
                f"expected a calibration with the keys {sorted(_KEYS[kind])}, "
                f"found {_short(list(data))}"
            )
        try:
            if kind == "linear":
                return cls.linear(data["scale"], data["bias"])
            return cls.isotonic(data["logits"], data["probabilities"])
        except QueryError as error:
            raise CheckpointError(str(error)) from error


class QueryCalibrations:
    """The calibrations of Q queries, applied to many (box, query) pairs at once.

    Args:
        calibrations: One for each query, None for the plain sigmoid; None if no query has one.
        query_count: Q.

    Attributes:
        plain: Whether no query has a calibration.
        shared: Whether all queries have the same one (or none has).

    Raises:
        QueryError: If there are not Q, or one is no :class:`Calibration`.
    """

    def __init__(self, calibrations: Sequence[Calibration | None] | None, query_count: int) -> None:
        listed = [None] * query_count if calibrations is None else list(calibrations)
        if len(listed) != query_count:
            raise QueryError(
                f"expected {query_count} calibrations, one per query, found {len(listed)}"
            )
        # By identity: comparing the knots of 1,203 equal maps would cost more than applying them.
        numbers: dict[int, int] = {}
        self._maps: list[Calibration] = []
        self._map_of = np.zeros(query_count, dtype=np.int64)
        for query, calibration in enumerate(listed):
            if id(calibration) not in numbers:
                if not isinstance(calibration, Calibration | None):
                    raise QueryError(
                        f"expected a Calibration or None for query {query}, "
                        f"found {_short(calibration)}"
                    )
                numbers[id(calibration)] = len(self._maps)
                self._maps.append(Calibration() if calibration is None else calibration)
            self._map_of[query] = numbers[id(calibration)]
        self._maps = self._maps or [Calibration()]
        self.plain = set(numbers) <= {id(None)}
        self.shared = len(self._maps) == 1
        self._scales = np.array([one.scale for one in self._maps])
        self._biases = np.array([one.bias for one in self._maps])
        self._is_isotonic = np.array([bool(one.knots) for one in self._maps], dtype=bool)

    def probabilities(self, logits: NDArray[Any], queries: NDArray[np.int64]) -> Floats:
        """Probabilities [N], float32, of logits [N] that belong to the queries [N]."""
        if self.shared:
            return self._maps[0].probabilities(logits)
        maps = self._map_of[queries]
        found = _sigmoid(logits.astype(np.float64), self._scales[maps], self._biases[maps])
        if not self._is_isotonic.any():
            return found
        rest = np.flatnonzero(self._is_isotonic[maps])
        rest = rest[np.argsort(maps[rest], kind="stable")]
        starts = np.flatnonzero(np.diff(maps[rest])) + 1
        for members in np.split(rest, starts) if len(rest) else ():
            found[members] = self._maps[maps[members[0]]].probabilities(logits[members])
        return found

    def least_logits(self, limits: NDArray[np.float32]) -> Floats:
        """:meth:`Calibration.least_logit` for limits [Q], or for one limit; float32.

        Returns:
            [Q], or no dimension if there is one limit and all queries share a calibration.
        """
        if limits.ndim == 0 and self.shared:
            cuts = np.array(self._maps[0].least_logit(float(limits)))
        else:
            spread = np.broadcast_to(limits, len(self._map_of)).tolist()
            pairs = list(zip(self._map_of.tolist(), spread, strict=True))
            known = {(one, limit): self._maps[one].least_logit(limit) for one, limit in set(pairs)}
            cuts = np.array([known[pair] for pair in pairs], dtype=np.float64)
        with np.errstate(over="ignore"):
            return np.asarray(np.nextafter(cuts.astype(np.float32), np.float32(-np.inf)))


def _sigmoid(logits: NDArray[np.float64], scale: Any, bias: Any) -> Floats:
    with np.errstate(over="ignore", under="ignore"):
        probabilities: Floats = (1 / (1 + np.exp(-(scale * logits + bias)))).astype(np.float32)
    return probabilities


def _checked_knots(knots: object) -> tuple[tuple[float, float], ...]:
    if not isinstance(knots, tuple):
        raise QueryError(f"expected a tuple of knots (logit, probability), found {_short(knots)}")
    checked: list[tuple[float, float]] = []
    for knot in knots:
        if not isinstance(knot, tuple) or len(knot) != 2:
            raise QueryError(f"expected a knot (logit, probability), found {_short(knot)}")
        x = _rounded(_number("knot's logit", knot[0]))
        y = _number("knot's probability", knot[1])
        if not 0 <= y <= 1:
            raise QueryError(f"expected probabilities in [0, 1], found {y} at knot {len(checked)}")
        if checked and not (checked[-1][0] < x and checked[-1][1] <= y):
            raise QueryError(
                "expected knots with strictly ascending logits and probabilities that never fall, "
                f"found {(x, y)} after {checked[-1]} at knot {len(checked)}"
            )
        checked.append((x, y))
    return tuple(checked)


def _rounded(logit: float) -> float:
    """The logit as a float32 number."""
    with np.errstate(over="ignore"):
        return _number("knot's logit", float(np.float32(logit)))


def _vector(name: str, values: ArrayLike) -> list[Any]:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, list | tuple):
        raise QueryError(f"expected {name} of knots as a list of numbers, found {_short(values)}")
    return list(values)


def _number(name: str, value: object) -> float:
    kinds = int | float | np.integer | np.floating
    try:
        number = float(value) if isinstance(value, kinds) else math.nan
    except OverflowError:
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise QueryError(
            f"expected a calibration's {name} as a finite number, found {_short(value)}"
        )
    return number


def _short(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:
        # Python refuses to write out integers of thousands of digits.
        return "a number with too many digits"
