"""Makes scores mean what they say: fits calibrations and chooses thresholds on labelled images.

Shapes: N detections, C classes.

- [0]: Probabilistic Outputs for Support Vector Machines, Platt 1999
- [1]: On Calibration of Modern Neural Networks, Guo et al. 2017, https://arxiv.org/abs/1706.04599
- [2]: Transforming Classifier Scores into Accurate Multiclass Probability Estimates, Zadrozny and
  Elkan 2002, https://doi.org/10.1145/775047.775151
- [3]: Centered Isotonic Regression, Oron and Flournoy 2017, https://arxiv.org/abs/1701.05964
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression, minimize, minimize_scalar
from scipy.special import expit

from owlkit.calibration import Calibration
from owlkit.errors import ConfigError, DatasetError
from owlkit.evaluation.calibration_pairs import CalibrationPairs
from owlkit.evaluation.operating_points import (
    OperatingPoint,
    Target,
    choose_threshold,
    measure_threshold,
)
from owlkit.evaluation.reliability import brier_score, expected_calibration_error
from owlkit.selection import DEFAULT_THRESHOLD, passes

Method = Literal["temperature", "platt", "isotonic"]
Per = Literal["model", "class"]

LEAST_PAIRS = 20
"""A class with fewer detections, or none that is right, is not fitted."""

# So many right detections of a class outweigh what holds for all classes together. On the
# quickstart's scenes (8 objects a class) 4 to 16 give the best likelihood on other images.
_PRIOR_OBJECTS = 8
# Temperatures beyond a hundredth and a hundred are no fit but a failure.
_LOG_SCALE_BOUND = float(np.log(100))


@dataclass(frozen=True)
class ClassSettings:
    """How the detections of a class are scored and selected.

    Attributes:
        calibration: From logits to probabilities.
        point: The chosen threshold and what it does to the data it was chosen on; None if none
            was asked for.
    """

    calibration: Calibration
    point: OperatingPoint | None


@dataclass(frozen=True)
class CalibrationFit:
    """Calibrations and thresholds for a model or its classes.

    Attributes:
        shared: For all classes together.
        classes: For each class (C): the object ``shared`` itself where it has no settings of its
            own.
        too_few: Which classes were to have their own, but have too few detections.
    """

    shared: ClassSettings
    classes: tuple[ClassSettings, ...]
    too_few: tuple[int, ...] = ()


def fit_calibration(
    logits: ArrayLike, is_true: ArrayLike, *, method: Method, prior: Calibration | None = None
) -> Calibration:
    """Fits probabilities to logits by maximum likelihood.

    `temperature` fits one scale [1], `platt` a scale and a bias [0], `isotonic` any monotone curve
    [2]: pooled adjacent violators, each pool then a knot at its mean logit [3] with straight lines
    between.

    Nothing is promised with certainty: without a prior, outcomes of the first two are drawn a
    little to the middle as Platt does [0], and the third goes no further than these. With a prior,
    outcomes are mixed with what it expects, as if it had been right about eight objects.

    Args:
        logits: Finite [N].
        is_true: What was right [N]; some are, and without a prior some are not.
        method: One of the three.
        prior: What is believed before; of few data, more of it stays.

    Raises:
        ConfigError: If the method is unknown.
        DatasetError: If the data cannot be fitted.
    """
    if method not in get_args(Method):
        known = ", ".join(get_args(Method))
        raise ConfigError(f"method: expected one of {known}, found {method!r}")
    values, truth = np.asarray(logits, np.float64), np.asarray(is_true, bool)
    if values.ndim != 1 or values.shape != truth.shape or not np.isfinite(values).all():
        raise DatasetError(
            f"expected finite logits and their truth [N], found shapes {list(values.shape)} and "
            f"{list(truth.shape)}"
        )
    right = int(truth.sum())
    if not right or (prior is None and right == len(truth)):
        raise DatasetError(
            f"expected detections that are right and others that are wrong, found that {right} of "
            f"{len(truth)} are right"
        )
    if prior is not None:
        weight = _PRIOR_OBJECTS / (right + _PRIOR_OBJECTS)
        targets = (1 - weight) * truth + weight * prior.probabilities(values)
        low, high = 0.0, 1.0
    else:
        low, high = 1 / (len(truth) - right + 2), (right + 1) / (right + 2)
        targets = truth if method == "isotonic" else np.where(truth, high, low)
    if method == "isotonic":
        return _fit_isotonic(values, targets, low, high)
    return (_fit_temperature if method == "temperature" else _fit_platt)(values, targets)


def _fit_temperature(logits: NDArray[np.float64], targets: NDArray[np.float64]) -> Calibration:
    found = minimize_scalar(
        lambda log_scale: negative_log_likelihood(np.exp(log_scale) * logits, targets),
        bounds=(-_LOG_SCALE_BOUND, _LOG_SCALE_BOUND),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return Calibration.linear(float(np.exp(found.x)))


def _fit_platt(logits: NDArray[np.float64], targets: NDArray[np.float64]) -> Calibration:
    # Around the middle of the logits scale and bias hardly depend on one another.
    middle = float(logits.mean())
    centred = logits - middle

    def loss(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scale = np.exp(point[0])
        scaled = scale * centred + point[1]
        slope = (expit(scaled) - targets) / len(scaled)
        gradient = np.array([scale * (slope @ centred), slope.sum()])
        return negative_log_likelihood(scaled, targets), gradient

    share = float(targets.mean())
    found = minimize(
        loss,
        np.array([0.0, np.log(share / (1 - share))]),
        jac=True,
        bounds=[(-_LOG_SCALE_BOUND, _LOG_SCALE_BOUND), (None, None)],
        method="L-BFGS-B",
        options={"gtol": 1e-10, "ftol": 1e-14, "maxiter": 500},
    )
    scale, bias = float(np.exp(found.x[0])), float(found.x[1])
    return Calibration.linear(scale, bias - scale * middle)


def _fit_isotonic(
    logits: NDArray[np.float64], targets: NDArray[Any], low: float, high: float
) -> Calibration:
    # Equal logits have one probability. Knots are float32 numbers, as the logits of detectors are.
    distinct, member = np.unique(logits.astype(np.float32), return_inverse=True)
    weights = np.bincount(member).astype(np.float64)
    share = np.bincount(member, targets) / weights
    fitted = isotonic_regression(share, weights=weights)
    starts = fitted.blocks[:-1]
    mass = np.add.reduceat(weights, starts)
    knots = np.add.reduceat(weights * distinct.astype(np.float64), starts) / mass
    probabilities = np.clip(fitted.x[starts], low, high)
    return Calibration.isotonic(knots, probabilities)


def negative_log_likelihood(logits: NDArray[np.float64], targets: ArrayLike) -> float:
    """Mean of -log p(outcome), in nats, of outcomes in [0, 1] under sigmoid(logits) [N]."""
    outcomes = np.asarray(targets, np.float64)
    return float(np.mean(np.logaddexp(0, logits) - outcomes * logits)) if len(logits) else 0.0


def fit_pairs(
    pairs: CalibrationPairs,
    *,
    method: Method = "platt",
    per: Per = "model",
    target: Target | None = None,
) -> CalibrationFit:
    """Fits calibrations on detections, and chooses thresholds on the calibrated scores.

    Args:
        pairs: Detections that are right or wrong, and the objects.
        method: See :func:`fit_calibration`.
        per: One calibration and threshold for the ``model``, or one for each ``class``, for which
            the model's is the prior; a class with too few detections (:data:`LEAST_PAIRS`) has
            those of the model.
        target: What thresholds are chosen for; None chooses none.

    Raises:
        ConfigError: If the method or ``per`` is unknown.
        DatasetError: If all classes together cannot be fitted.
    """
    if per not in get_args(Per):
        raise ConfigError(f"per: expected model or class, found {per!r}")
    objects = pairs.object_counts()
    everything = np.ones(len(pairs.labels), bool)
    calibration = fit_calibration(pairs.logits, pairs.is_true, method=method)
    shared = _with_threshold(calibration, pairs, everything, int(objects.sum()), target)
    classes, too_few = [shared] * len(pairs.names), []
    for label in range(len(classes) if per == "class" else 0):
        mine = pairs.labels == label
        if mine.sum() < LEAST_PAIRS or not pairs.is_true[mine].any():
            too_few.append(label)
            continue
        own = fit_calibration(
            pairs.logits[mine], pairs.is_true[mine], method=method, prior=calibration
        )
        classes[label] = _with_threshold(own, pairs, mine, int(objects[label]), target)
    return CalibrationFit(shared, tuple(classes), tuple(too_few))


def _with_threshold(
    calibration: Calibration,
    pairs: CalibrationPairs,
    mine: NDArray[np.bool_],
    objects: int,
    target: Target | None,
) -> ClassSettings:
    """The calibration, and the threshold that suits some of the detections."""
    if target is None:
        return ClassSettings(calibration, None)
    scores = calibration.probabilities(pairs.logits[mine].astype(np.float32))
    return ClassSettings(
        calibration, choose_threshold(scores, pairs.is_true[mine], objects, target)
    )


def calibrated_scores(pairs: CalibrationPairs, fit: CalibrationFit | None) -> NDArray[np.float32]:
    """The probability of each detection [N]; None for the plain sigmoid of its logit."""
    logits = pairs.logits.astype(np.float32)
    if fit is None:
        return Calibration().probabilities(logits)
    scores = np.zeros(len(logits), np.float32)
    for label, settings in enumerate(fit.classes):
        mine = pairs.labels == label
        scores[mine] = settings.calibration.probabilities(logits[mine])
    return scores


@dataclass(frozen=True)
class CalibrationMetrics:
    """How good scores and thresholds are on a set of detections.

    Attributes:
        pairs: Detections, N.
        objects: What there was to find.
        ece: Expected calibration error in 15 bins of equal width [1], in [0, 1].
        ece_adaptive: The same in 15 bins of equally many detections.
        brier: Mean squared distance of scores to what is right, in [0, 1].
        nll: Mean negative log-likelihood, in nats.
        mean_f1: F1 at the thresholds, mean over the classes that have objects.
        f1: F1 at the thresholds, of all classes together.
    """

    pairs: int
    objects: int
    ece: float
    ece_adaptive: float
    brier: float
    nll: float
    mean_f1: float
    f1: float

    def to_dict(self) -> dict[str, Any]:
        """Name to number."""
        return asdict(self)


def measure_fit(pairs: CalibrationPairs, fit: CalibrationFit | None) -> CalibrationMetrics:
    """Measures calibrations and thresholds.

    Args:
        pairs: Detections of other images than it was fitted on, to be honest.
        fit: None for plain sigmoids and a threshold of 0.1, which is also what is measured where
            no thresholds were chosen.
    """
    scores = calibrated_scores(pairs, fit)
    objects = pairs.object_counts()
    thresholds = np.full(len(pairs.names), DEFAULT_THRESHOLD)
    for label, settings in enumerate(fit.classes if fit else ()):
        if settings.point is not None:
            thresholds[label] = settings.point.threshold
    by_class = [
        measure_threshold(
            scores[pairs.labels == label], pairs.is_true[pairs.labels == label], count, threshold
        ).f1
        for label, (count, threshold) in enumerate(
            zip(objects.tolist(), thresholds.tolist(), strict=True)
        )
        if count
    ]
    passed = passes(scores, thresholds[pairs.labels])
    total = int(passed.sum()) + len(pairs.object_labels)
    likelihood = np.where(pairs.is_true, scores, 1 - scores).astype(np.float64)
    return CalibrationMetrics(
        pairs=len(scores),
        objects=len(pairs.object_labels),
        ece=expected_calibration_error(scores, pairs.is_true),
        ece_adaptive=expected_calibration_error(scores, pairs.is_true, adaptive=True),
        brier=brier_score(scores, pairs.is_true),
        # A score of 1 in float32 may be a little less.
        nll=float(-np.log(np.maximum(likelihood, 2.0**-25)).mean()) if len(scores) else 0.0,
        mean_f1=float(np.mean(by_class)) if by_class else 0.0,
        f1=2 * int((passed & pairs.is_true).sum()) / total if total else 0.0,
    )
