"""Maps from logits to probabilities: scipy, monotony, safe cuts, and hostile JSON."""

import json
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from owlkit.calibration import Calibration, QueryCalibrations
from owlkit.errors import CheckpointError, QueryError

LOGITS = st.floats(width=32, allow_nan=False)


def linear_maps():
    positive = st.floats(0.01, 100) | st.floats(min_value=1e-300, max_value=1e300)
    bias = st.floats(-20, 20) | st.floats(-1e12, 1e12)
    return st.builds(Calibration.linear, positive, bias)


@st.composite
def isotonic_maps(draw):
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.floats(
        -20, 20, width=32
    )
    logits = draw(st.lists(finite, min_size=1, max_size=8, unique_by=np.float32))
    probability = st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.25, 0.5, 1.0])
    probabilities = draw(st.lists(probability, min_size=len(logits), max_size=len(logits)))
    return Calibration.isotonic(sorted(logits), sorted(probabilities))


MAPS = linear_maps() | isotonic_maps()


def neighbours(logits: np.ndarray, towards: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.nextafter(logits, np.float32(towards))


def test_linear_maps_equal_scipy():
    logits = np.random.default_rng(0).normal(0, 8, (3, 40)).astype(np.float32)
    for scale, bias in ((1.0, 0.0), (0.4, 0.0), (2.5, -3.0)):
        found = Calibration.linear(scale, bias).probabilities(logits)
        assert (found.dtype, found.shape) == (np.float32, (3, 40))
        np.testing.assert_allclose(found, expit(scale * logits.astype(float) + bias), rtol=1e-6)
    assert Calibration() == Calibration.linear(1)
    assert Calibration.linear(2).probabilities([-np.inf, np.inf, -3e38]).tolist() == [0, 1, 0]


def test_isotonic_maps_are_straight_between_knots_and_constant_outside():
    x, y = [-3.0, -1.0, 0.5, 4.0], [0.1, 0.1, 0.6, 0.9]
    calibration = Calibration.isotonic(np.array(x), np.array(y, dtype=np.float32).tolist())
    logits = np.concatenate([np.linspace(-6, 6, 401), x, [-np.inf, np.inf, -1e30]])
    np.testing.assert_allclose(
        calibration.probabilities(logits), np.interp(logits, x, y), atol=1e-7
    )
    assert Calibration.isotonic([2.0], [0.25]).probabilities([-9, 2, 9]).tolist() == [0.25] * 3


@settings(max_examples=300, deadline=None)
@given(MAPS, st.lists(LOGITS, min_size=1, max_size=30))
def test_maps_never_fall_and_stay_probabilities(calibration, logits):
    knots = [logit for logit, _ in calibration.knots]
    ordered = np.sort(np.array([*logits, *knots], dtype=np.float32))
    near = np.concatenate([ordered, neighbours(ordered, -np.inf), neighbours(ordered, np.inf)])
    found = calibration.probabilities(np.sort(near))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= 0).all()


@settings(max_examples=250, deadline=None)
@given(MAPS, st.floats(0, 1) | st.sampled_from([0.0, 1e-45, 0.25, 0.5, 1 - 2**-24, 1.0]), LOGITS)
def test_no_logit_below_the_least_exceeds(calibration, probability, other):
    least = calibration.least_logit(probability)
    cut = QueryCalibrations([calibration], 1).least_logits(np.float32(probability) + np.zeros(()))
    assert float(cut) <= least
    with np.errstate(over="ignore"):
        below = np.array([least, other, *(x for x, _ in calibration.knots)]).astype(np.float32)
    for _ in range(4):
        below = np.concatenate([below, neighbours(below, -np.inf)])
    below = below[below.astype(np.float64) < least]
    assert (calibration.probabilities(below) <= np.float32(probability)).all()


def test_the_least_logit_is_close():
    for calibration in (
        Calibration(),
        Calibration.linear(0.5, -2),
        Calibration.isotonic([-8, 1, 7], [0, 0.3, 1]),
    ):
        for probability in (0.01, 0.1, 0.3, 0.5, 0.9):
            least = calibration.least_logit(probability)
            just_above = calibration.probabilities(least + 1e-5)
            assert np.float32(probability) < just_above < probability + 1e-4
    flat = Calibration.isotonic([0, 1, 2, 3], [0.2, 0.5, 0.5, 0.8])
    assert flat.least_logit(0.5) == pytest.approx(2)
    assert (flat.least_logit(0.1), flat.least_logit(0.8)) == (-np.inf, np.inf)


@settings(max_examples=200, deadline=None)
@given(MAPS)
def test_json_gives_the_same_map_back(calibration):
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again == calibration
    assert hash(again) == hash(calibration)
    assert pickle.loads(pickle.dumps(again)) == again


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)
VALUES = JSON | st.sampled_from(
    [10**400, 10**5000, -1, 0, 1e39, "1", [], [0.5], [1, 1], [[1], [2]]]
)


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(
        [
            {"kind": "linear", "scale": 2.0, "bias": 0.5},
            {"kind": "isotonic", "logits": [0.0, 1.0], "probabilities": [0.25, 0.5]},
        ]
    ),
    st.dictionaries(
        st.sampled_from(["kind", "scale", "bias", "logits", "probabilities", "more"]), VALUES
    ),
    st.sets(st.sampled_from(["kind", "scale", "bias", "logits", "probabilities"]), max_size=2),
    JSON,
)
def test_anything_else_is_a_checkpoint_error(valid, changes, removed, other):
    data = {key: value for key, value in {**valid, **changes}.items() if key not in removed}
    for candidate in (data, other):
        try:
            calibration = Calibration.from_dict(candidate)
        except CheckpointError:
            continue
        assert set(calibration.to_dict()) == set(candidate)
        assert Calibration.from_dict(calibration.to_dict()) == calibration


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1], r"a calibration as an object, found \[1\]"),
        ({"kind": "spline"}, "'linear' or 'isotonic', found 'spline'"),
        ({"kind": "linear", "scale": 1.0}, r"keys \['bias', 'kind', 'scale'\]"),
        ({"kind": "linear", "scale": True, "bias": 0}, "scale as a finite number, found True"),
        ({"kind": "linear", "scale": 1, "bias": float("nan")}, "bias as a finite number"),
        ({"kind": "linear", "scale": 10**5000, "bias": 0}, "scale as a finite number"),
        ({"kind": "linear", "scale": 0, "bias": 0}, "scale above 0, found 0"),
        ({"kind": "isotonic", "logits": "12", "probabilities": [0, 1]}, "a list of numbers"),
        ({"kind": "isotonic", "logits": [1], "probabilities": [0, 1]}, "1 logits and 2 prob"),
        ({"kind": "isotonic", "logits": [], "probabilities": []}, "at least one of each"),
        ({"kind": "isotonic", "logits": [1, 1], "probabilities": [0, 1]}, "at knot 1"),
        ({"kind": "isotonic", "logits": [1, 2], "probabilities": [0.5, 0.4]}, "never fall"),
        ({"kind": "isotonic", "logits": [1, 2], "probabilities": [0.5, 1.5]}, "found 1.5 at knot"),
        ({"kind": "isotonic", "logits": [1, 1e39], "probabilities": [0, 1]}, "finite number"),
    ],
)
def test_errors_say_what_is_wrong(data, message):
    with pytest.raises(CheckpointError, match=message):
        Calibration.from_dict(data)


def test_a_map_made_in_code_is_checked_too():
    with pytest.raises(QueryError, match=r"found knots, 2\.0 and 0\.0"):
        Calibration(scale=2, knots=((0.0, 0.5),))
    with pytest.raises(QueryError, match="expected a tuple of knots"):
        Calibration(knots=[(0.0, 0.5)])  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="scale as a finite number"):
        Calibration.linear(float("inf"))
    for probability in (-0.1, 1.1, float("nan")):
        with pytest.raises(QueryError, match="probability"):
            Calibration().least_logit(probability)
    with pytest.raises(FrozenInstanceError):
        Calibration().scale = 2.0  # type: ignore[misc]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | MAPS, max_size=5), st.integers(0, 2**32 - 1))
def test_many_queries_at_once_equal_one_at_a_time(calibrations, seed):
    rng = np.random.default_rng(seed)
    count = len(calibrations)
    queries = rng.integers(0, max(count, 1), 60 if count else 0)
    logits = rng.normal(0, 10, len(queries)).astype(np.float32)
    together = QueryCalibrations(calibrations, count)
    maps = [Calibration() if one is None else one for one in calibrations]
    wanted = [
        maps[query].probabilities(logit) for query, logit in zip(queries, logits, strict=True)
    ]
    np.testing.assert_allclose(together.probabilities(logits, queries), wanted, rtol=2e-7)
    limits = rng.choice([0.0, 0.2, 0.5, 1.0], count).astype(np.float32)
    found = together.least_logits(limits)
    assert found.shape == (count,)
    for cut, one, limit in zip(found, maps, limits, strict=True):
        exact = one.least_logit(float(limit))
        assert float(cut) <= exact
        largest = float(np.finfo(np.float32).max)
        close = pytest.approx(np.clip(exact, -largest, largest), rel=1e-6, abs=1e-44)
        assert np.isneginf(cut) or float(cut) == close
    assert together.plain == all(one is None for one in calibrations)


def test_calibrations_must_fit_the_queries():
    with pytest.raises(QueryError, match="expected 2 calibrations, one per query, found 1"):
        QueryCalibrations([None], 2)
    with pytest.raises(QueryError, match=r"Calibration or None for query 1, found 0\.5"):
        QueryCalibrations([None, 0.5], 2)  # type: ignore[list-item]
