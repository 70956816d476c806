"""Which (patch, query) pairs pass: against loops over all of them."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owlkit import postprocess
from owlkit.calibration import Calibration
from owlkit.errors import DetectionsError, QueryError
from owlkit.postprocess import Selection, select_pairs


def logit(probability) -> np.ndarray:
    probability = np.asarray(probability, dtype=np.float64)
    return np.log(probability / (1 - probability)).astype(np.float32)


def sigmoid(logits) -> np.ndarray:
    return (1 / (1 + np.exp(-np.asarray(logits, dtype=np.float64)))).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    patch_count=st.integers(0, 9),
    query_count=st.integers(0, 5),
    threshold=st.sampled_from([0.0, 1e-30, 0.1, 0.3, 0.5, 0.75, 0.999, 1.0]),
    top_k=st.none() | st.integers(1, 12),
    one_label=st.booleans(),
    per_query=st.booleans(),
)
def test_select_pairs_equals_a_loop(
    seed, patch_count, query_count, threshold, top_k, one_label, per_query
):
    rng = np.random.default_rng(seed)
    logits = logit(rng.integers(1, 12, (patch_count, query_count)) / 12)
    logits[rng.random(logits.shape) < 0.1] = rng.choice([-1e6, -3e38, -200, 90])
    limits = np.full(query_count, threshold)
    if per_query:
        limits = rng.choice([0.0, threshold, 0.5, 1.0], query_count)
    scores = sigmoid(np.maximum(logits, -700))
    pairs = []
    for patch in range(patch_count):
        queries = [int(logits[patch].argmax())] if one_label and query_count else range(query_count)
        for query in queries:
            limit = np.float32(limits[query])
            if logits[patch, query] > -1e6 and (scores[patch, query] > limit or limit == 0):
                pairs.append((-scores[patch, query], patch, query))
    pairs = sorted(pairs)[:top_k]
    found = select_pairs(
        logits,
        threshold=limits if per_query else threshold,
        top_k=top_k,
        one_label_per_box=one_label,
    )
    assert [array.dtype for array in found] == [np.float32, np.int64, np.int64]
    assert [(-s, p, q) for s, p, q in zip(*found, strict=True)] == pairs


def test_threshold_is_strict_at_the_returned_score():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (50, 7)).astype(np.float32)
    scores, _, _ = select_pairs(logits, threshold=0.0)
    assert len(scores) == 350
    for rank in (0, 17, 200, 349):
        kept, _, _ = select_pairs(logits, threshold=float(scores[rank]))
        np.testing.assert_array_equal(kept, scores[scores > scores[rank]])
        just_below = float(np.nextafter(scores[rank], np.float32(0)))
        kept, _, _ = select_pairs(logits, threshold=just_below)
        np.testing.assert_array_equal(kept, scores[scores >= scores[rank]])


def test_probability_of_exactly_the_threshold_is_dropped():
    assert len(select_pairs(np.zeros((1, 1)), threshold=0.5)[0]) == 0
    above = np.full((1, 1), 1e-6)
    assert len(select_pairs(above, threshold=0.5)[0]) == 1


@pytest.mark.parametrize("mask", [-1e6, -1e9, np.finfo(np.float32).min, -np.inf])
def test_threshold_zero_keeps_all_but_masked_logits(mask):
    logits = np.array([[mask, -1000.0], [-200.0, 3.0]], dtype=np.float32)
    scores, patches, queries = select_pairs(logits, threshold=0)
    assert list(zip(patches, queries, strict=True)) == [(1, 1), (0, 1), (1, 0)]
    assert scores.tolist() == [pytest.approx(0.9525741), 0, 0]


def test_threshold_one_keeps_nothing():
    assert len(select_pairs(np.array([[np.inf, 1e30, 50.0]]), threshold=1.0)[0]) == 0


def test_top_k_with_ties_takes_the_lowest_positions():
    logits = np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    _, patches, queries = select_pairs(logits, threshold=0.1, top_k=4)
    assert list(zip(patches, queries, strict=True)) == [(0, 1), (1, 2), (0, 0), (0, 2)]


def test_one_threshold_per_query():
    logits = logit([[0.3, 0.3], [0.6, 0.6]])
    _, patches, queries = select_pairs(logits, threshold=[0.5, 0.2])
    assert list(zip(patches, queries, strict=True)) == [(1, 0), (1, 1), (0, 1)]
    # The best query of a box must pass its own threshold; the second best does not step in.
    logits = logit([[0.4, 0.3]])
    assert len(select_pairs(logits, threshold=[0.5, 0.2], one_label_per_box=True)[0]) == 0


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), [0.5, 2.0], "high", [[0.5]]])
def test_bad_thresholds_are_refused(threshold):
    with pytest.raises(QueryError, match="threshold"):
        select_pairs(np.zeros((3, 2)), threshold=threshold)
    with pytest.raises(QueryError, match="threshold"):
        Selection(threshold=threshold)


def test_select_pairs_names_bad_input():
    with pytest.raises(QueryError, match="expected 2 thresholds, one per query, found 3"):
        select_pairs(np.zeros((3, 2)), threshold=[0.1, 0.2, 0.3])
    with pytest.raises(DetectionsError, match=r"shape \[P, Q\], found \[4\]"):
        select_pairs(np.zeros(4), threshold=0.1)
    with pytest.raises(DetectionsError, match=r"without NaN, found one at \[1, 0\]"):
        select_pairs(np.array([[0.0], [np.nan]]), threshold=0.1)
    for top_k in (0, -1, 2.5):
        with pytest.raises(QueryError, match="top_k"):
            select_pairs(np.zeros((3, 2)), threshold=0.1, top_k=top_k)


@st.composite
def calibrations(draw) -> Calibration | None:
    """Maps with exact answers at multiples of 1/4, flat parts among them, or plain ones."""
    kind = draw(st.sampled_from(["none", "linear", "isotonic"]))
    if kind == "none":
        return None
    if kind == "linear":
        return Calibration.linear(
            draw(st.sampled_from([0.5, 1.0, 2.0])), draw(st.sampled_from([-1.0, 0.0, 0.5]))
        )
    widths = draw(st.lists(st.sampled_from([1, 2, 4]), max_size=5))
    steps = draw(st.lists(st.sampled_from([0, 0, 1, 2, 3]), min_size=1 + len(widths), max_size=6))
    return Calibration.isotonic(np.cumsum([-4, *widths]), np.cumsum(steps)[: 1 + len(widths)] / 18)


def slow_score(calibration, value) -> np.float32:
    if calibration is None or not calibration.knots:
        one = calibration or Calibration()
        with np.errstate(over="ignore"):
            return np.float32(1 / (1 + np.exp(-(np.float64(value) * one.scale + one.bias))))
    return np.float32(np.interp(np.float64(value), *zip(*calibration.knots, strict=True)))


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    patch_count=st.integers(0, 12),
    maps=st.lists(calibrations(), max_size=5) | calibrations().map(lambda one: [one] * 4),
    threshold=st.sampled_from([0.0, 0.1, 2 / 9, 0.5, 1.0]),
    top_k=st.none() | st.integers(1, 12),
    one_label=st.booleans(),
    per_query=st.booleans(),
    block=st.sampled_from([1, 11, 2**17]),
)
def test_calibrated_pairs_equal_a_loop(
    seed, patch_count, maps, threshold, top_k, one_label, per_query, block
):
    rng = np.random.default_rng(seed)
    logits = (rng.integers(-24, 24, (patch_count, len(maps))) / 4).astype(np.float32)
    logits[rng.random(logits.shape) < 0.15] = rng.choice([-1e6, -3e38, -1000, 90])
    visible = rng.random(patch_count) < 0.9
    limits = np.full(len(maps), threshold, dtype=np.float32)
    if per_query:
        limits = rng.choice([0.0, threshold, 0.5, 1.0], len(maps)).astype(np.float32)
    # As documented, equal scores go by their logits only if there are calibrations.
    by_logit = any(one is not None for one in maps)
    pairs = []
    for patch in np.flatnonzero(visible):
        found = [
            (-slow_score(one, logits[patch, query]), -logits[patch, query], int(patch), query)
            for query, one in enumerate(maps)
            if logits[patch, query] > -1e6
        ]
        if one_label:
            found = sorted(found)[:1]
        pairs += [pair for pair in found if -pair[0] > limits[pair[3]] or limits[pair[3]] == 0]
    pairs = sorted(pairs, key=lambda pair: pair if by_logit else (pair[0], *pair[2:]))[:top_k]
    with mock.patch.object(postprocess, "_BLOCK", block):
        scores, patches, queries = select_pairs(
            logits,
            threshold=limits if per_query else threshold,
            top_k=top_k,
            one_label_per_box=one_label,
            calibrations=maps,
            visible=visible,
        )
    assert list(zip(patches, queries, strict=True)) == [pair[2:] for pair in pairs]
    np.testing.assert_allclose(scores, [-pair[0] for pair in pairs], rtol=1e-7)


def test_thousands_of_pairs_in_blocks_equal_one_sort():
    rng = np.random.default_rng(5)
    logits = rng.normal(-2, 3, (700, 130)).astype(np.float32)
    scores = sigmoid(logits).ravel()
    order = np.argsort(-scores, kind="stable")
    for threshold, top_k in ((0.0, 300), (0.4, None), (0.4, 90_000), (0.999, 300)):
        wanted = order[: (scores > threshold).sum()][:top_k]
        with mock.patch.object(postprocess, "_BLOCK", 1000):
            found = select_pairs(logits, threshold=threshold, top_k=top_k)
        np.testing.assert_array_equal(found[1] * 130 + found[2], wanted)
        np.testing.assert_array_equal(found[0], scores[wanted])


def test_select_pairs_refuses_what_does_not_fit():
    with pytest.raises(QueryError, match="expected 2 calibrations, one per query, found 1"):
        select_pairs(np.zeros((3, 2)), threshold=0.1, calibrations=[None])
    with pytest.raises(DetectionsError, match="expected visible as 3 booleans"):
        select_pairs(np.zeros((3, 2)), threshold=0.1, visible=np.ones(2, dtype=bool))
