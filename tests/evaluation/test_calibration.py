"""Fitted probabilities against grids, a slow isotonic regression, and known answers."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from owlkit.calibration import Calibration
from owlkit.errors import ConfigError, DatasetError
from owlkit.evaluation.calibration import (
    LEAST_PAIRS,
    CalibrationFit,
    ClassSettings,
    Method,
    calibrated_scores,
    fit_calibration,
    fit_pairs,
    measure_fit,
    negative_log_likelihood,
)
from owlkit.evaluation.calibration_pairs import CalibrationPairs
from owlkit.evaluation.operating_points import OperatingPoint, Target, measure_threshold
from owlkit.evaluation.reliability import expected_calibration_error

METHODS: tuple[Method, ...] = ("temperature", "platt", "isotonic")


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-logits)))


def outcomes(
    seed: int, count: int, scale: float, bias: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(-2, 2, count)
    return logits, generator.random(count) < sigmoid(scale * logits + bias)


def platt_targets(truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    right, wrong = truth.sum(), (~truth).sum()
    return np.where(truth, (right + 1) / (right + 2), 1 / (wrong + 2))


def test_linear_fits_are_the_best_on_a_grid() -> None:
    logits, truth = outcomes(0, 400, 0.6, -1)
    targets = platt_targets(truth)

    def loss(calibration: Calibration) -> float:
        return negative_log_likelihood(calibration.scale * logits + calibration.bias, targets)

    temperature = fit_calibration(logits, truth, method="temperature")
    grid = [Calibration.linear(scale) for scale in np.linspace(0.05, 4, 2000)]
    best = min(grid, key=loss)
    assert temperature.scale == pytest.approx(best.scale, abs=0.002)
    assert temperature.bias == 0
    assert loss(temperature) <= loss(best) + 1e-12

    platt = fit_calibration(logits, truth, method="platt")
    steps = np.linspace(-0.05, 0.05, 21)
    around = [
        Calibration.linear(platt.scale + step, platt.bias + other)
        for step in steps
        for other in steps
    ]
    assert loss(platt) <= min(map(loss, around))
    assert loss(platt) < loss(temperature)


def test_the_likelihood_is_that_of_the_definition() -> None:
    logits, truth = outcomes(1, 50, 1, 0)
    slow = [
        -np.log(sigmoid(logit) if right else 1 - sigmoid(logit))
        for logit, right in zip(logits, truth, strict=True)
    ]
    assert negative_log_likelihood(logits, truth) == pytest.approx(np.mean(slow))
    assert negative_log_likelihood(np.array([1e4]), [0.0]) == pytest.approx(1e4)


@pytest.mark.parametrize("seed", range(8))
def test_isotonic_is_the_minimum_over_pools(seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1, 40).round(1)  # equal ones, too
    truth = generator.random(40) < sigmoid(2 * logits)
    distinct = np.unique(logits)
    groups = [truth[logits == logit] for logit in distinct]

    def mean(first: int, last: int) -> float:
        return float(np.concatenate(groups[first : last + 1]).mean())

    # The minimax formula of isotonic regression.
    count = len(distinct)
    slow = [
        max(min(mean(first, last) for last in range(row, count)) for first in range(row + 1))
        for row in range(count)
    ]
    low, high = 1 / ((~truth).sum() + 2), (truth.sum() + 1) / (truth.sum() + 2)
    knots = fit_calibration(logits, truth, method="isotonic").knots
    pools = sorted(set(np.round(slow, 9)))
    assert len(knots) == len(pools)
    for (logit, probability), pool in zip(knots, pools, strict=True):
        inside = np.isin(logits, distinct[np.isclose(slow, pool)])
        assert logit == pytest.approx(logits[inside].mean(), abs=1e-6)
        assert probability == pytest.approx(np.clip(pool, low, high))


@pytest.mark.parametrize("method", METHODS)
def test_held_out_errors_vanish(method: Method) -> None:
    logits, truth = outcomes(2, 20_000, 0.5, 0 if method == "temperature" else -1)
    others, answers = outcomes(3, 20_000, 0.5, 0 if method == "temperature" else -1)
    calibration = fit_calibration(logits, truth, method=method)
    before = expected_calibration_error(sigmoid(others), answers)
    after = expected_calibration_error(calibration.probabilities(others), answers)
    assert after < 0.012 < 0.08 < before


@pytest.mark.parametrize("method", METHODS)
def test_a_clean_split_promises_no_certainty(method: Method) -> None:
    logits = np.concatenate([np.linspace(-6, -2, 30), np.linspace(1, 3, 10)])
    calibration = fit_calibration(logits, logits > 0, method=method)
    assert np.isfinite([value for knot in calibration.knots for value in knot]).all()
    least, most = calibration.probabilities([-6.0, 3.0])
    assert 0 < least < 0.05
    assert 0.9 < most < 1


def test_what_cannot_be_fitted() -> None:
    with pytest.raises(DatasetError, match="found that 0 of 3 are right"):
        fit_calibration([1, 2, 3], [0, 0, 0], method="platt")
    with pytest.raises(DatasetError, match="found that 3 of 3 are right"):
        fit_calibration([1, 2, 3], [1, 1, 1], method="isotonic")
    with pytest.raises(DatasetError, match=r"found shapes \[3\] and \[2\]"):
        fit_calibration([1, 2, 3], [1, 0], method="isotonic")
    with pytest.raises(DatasetError, match="finite logits"):
        fit_calibration([1, np.nan], [1, 0], method="temperature")
    with pytest.raises(ConfigError, match="expected one of temperature, platt, isotonic"):
        fit_calibration([1, 2], [1, 0], method="beta")  # type: ignore[arg-type]


def make_pairs(seed: int, *, missed: int = 0) -> CalibrationPairs:
    """Class 0 scores high, class 1 low, class 2 hardly at all, class 3 is never found."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], [4000, 4000, LEAST_PAIRS - 1])
    logits = generator.normal(-1, 2, len(labels))
    bias = np.array([1.5, -1.5, 0.0])[labels]
    is_true = generator.random(len(labels)) < sigmoid(2 * logits + bias)
    image_ids = np.arange(len(labels)) // 10
    objects = np.concatenate([labels[is_true], np.full(missed, 3)])
    return CalibrationPairs(
        names=("high", "low", "rare", "absent"),
        image_ids=image_ids,
        labels=labels,
        logits=logits,
        is_true=is_true,
        object_image_ids=np.concatenate([image_ids[is_true], np.zeros(missed, np.int64)]),
        object_labels=objects,
    )


@pytest.mark.parametrize("method", METHODS)
def test_classes_get_their_own(method: Method) -> None:
    pairs, others = make_pairs(0, missed=5), make_pairs(1)
    fit = fit_pairs(pairs, method=method, per="class", target=Target())
    assert fit.too_few == (2, 3)
    assert [settings is fit.shared for settings in fit.classes] == [False, False, True, True]
    shared = fit_pairs(pairs, method=method, per="model", target=Target())
    assert shared.too_few == ()
    assert all(settings is shared.shared for settings in shared.classes)
    assert shared.shared == fit.shared
    objects = pairs.object_counts()
    assert fit.shared.point is not None
    assert fit.shared.point == measure_threshold(
        calibrated_scores(pairs, shared),
        pairs.is_true,
        int(objects.sum()),
        fit.shared.point.threshold,
    )
    for label in (0, 1):
        mine, own = pairs.labels == label, fit.classes[label]
        assert own.calibration == fit_calibration(
            pairs.logits[mine], pairs.is_true[mine], method=method, prior=fit.shared.calibration
        )
        assert own.point is not None
        scores = own.calibration.probabilities(pairs.logits[mine].astype(np.float32))
        assert own.point == measure_threshold(
            scores, pairs.is_true[mine], int(objects[label]), own.point.threshold
        )
    before, after = measure_fit(others, None), measure_fit(others, fit)
    together = measure_fit(others, shared)
    assert after.ece < before.ece / 2
    assert after.nll < together.nll < before.nll
    assert after.mean_f1 > before.mean_f1
    assert measure_fit(pairs, fit).objects == pairs.is_true.sum() + 5


def test_a_class_with_few_detections_stays_near_all_together() -> None:
    pairs = make_pairs(0)
    prior = fit_calibration(pairs.logits, pairs.is_true, method="platt")
    few = slice(0, 30)  # of the class with high scores
    everything = pairs.labels == 0
    kept = fit_calibration(pairs.logits[few], pairs.is_true[few], method="platt", prior=prior)
    full = fit_calibration(
        pairs.logits[everything], pairs.is_true[everything], method="platt", prior=prior
    )
    assert prior.bias < kept.bias < full.bias
    # 3 of 4 are right; of eight objects in eleven the prior's word is taken.
    mixed = fit_calibration([1.0] * 4, [1, 1, 1, 0], method="isotonic", prior=Calibration())
    expected = 3 / 11 * 0.75 + 8 / 11 * sigmoid(np.array(1.0))
    assert mixed.probabilities([1.0]) == pytest.approx([expected])
    # Where every detection is right the prior alone knows of others.
    certain = fit_calibration([0.0, 1.0, 2.0], [1, 1, 1], method="isotonic", prior=prior)
    assert certain.probabilities([0.0])[0] < 1


def test_a_class_of_which_nothing_is_right_shares() -> None:
    pairs = make_pairs(0)
    pairs = replace(pairs, is_true=pairs.is_true & (pairs.labels != 1))
    assert fit_pairs(pairs, per="class").too_few == (1, 2, 3)


def test_logits_that_only_differ_in_float64_are_one_knot() -> None:
    logits = 1 + np.array([0, 1e-9, 2e-9, 1])
    calibration = fit_calibration(logits, [0, 0, 1, 1], method="isotonic")
    assert calibration.knots == ((1.0, pytest.approx(1 / 3)), (2.0, 0.75))


def test_numbers_are_those_of_the_definition() -> None:
    pairs = make_pairs(4, missed=2)
    calibrations = [Calibration.linear(2.0, bias) for bias in (1.0, -1.0, 0.0, 0.0)]
    limits = [0.3, 0.6, 0.5, 0.5]
    classes = tuple(
        ClassSettings(calibration, OperatingPoint(limit, 1, 1))
        for calibration, limit in zip(calibrations, limits, strict=True)
    )
    fit = CalibrationFit(classes[0], classes)
    scores = [
        float(calibrations[label].probabilities([np.float32(logit)])[0])
        for label, logit in zip(pairs.labels, pairs.logits, strict=True)
    ]
    np.testing.assert_array_equal(calibrated_scores(pairs, fit), np.float32(scores))
    f1s = []
    kept = right = 0
    for label, objects in enumerate(pairs.object_counts()):
        passed = [
            truth
            for score, truth, own in zip(scores, pairs.is_true, pairs.labels, strict=True)
            if own == label and score > limits[label]
        ]
        kept, right = kept + len(passed), right + sum(passed)
        f1s.append(2 * sum(passed) / (len(passed) + objects))
    found = measure_fit(pairs, fit)
    assert found.mean_f1 == pytest.approx(np.mean(f1s))
    assert found.f1 == pytest.approx(2 * right / (kept + len(pairs.object_labels)))
    likelihood = np.where(pairs.is_true, scores, 1 - np.array(scores))
    assert found.nll == pytest.approx(-np.log(likelihood).mean(), rel=1e-5)
    assert found.brier == pytest.approx(((scores - pairs.is_true) ** 2).mean())
