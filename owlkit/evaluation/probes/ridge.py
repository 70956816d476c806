"""Ridge regression on -1 and +1 in closed form: a probe of seconds, as in Big Vision [0].

Shapes: N training rows, M test rows, E features, C classes.

- [0]: few-shot evaluator of Big Vision, 2022, https://github.com/google-research/big_vision
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from owlkit.errors import ConfigError
from owlkit.evaluation.labelled import check_train_and_test, count_classes
from owlkit.evaluation.probes.choice import choose_setting
from owlkit.evaluation.probes.result import LinearClassifier, ProbeResult, result_of

RIDGE_STRENGTHS: tuple[float, ...] = tuple(2.0**power for power in range(-10, 21))
"""The swept range of Big Vision."""

_BIAS = 100.0
"""A feature so large that its weight is hardly regularised."""
_STD_FLOOR = 1e-5


def ridge_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    strengths: Sequence[float] = RIDGE_STRENGTHS,
    held_out: float = 0.2,
    seed: int = 0,
) -> ProbeResult:
    """Accuracy of ridge regression with the strength that is best on rows held out.

    With the strength chosen it learns from all training rows again.

    Args:
        train: Features [N, E].
        train_labels: Class numbers [N].
        test: Features [M, E].
        test_labels: Class numbers [M].
        strengths: To choose from, each above 0; of equally good ones the first. A single one is
            taken as it is; where no class has two rows to choose by, so is the middle one.
        held_out: Share of the training rows of each class, above 0 and below 1.
        seed: Of the choice of rows held out.

    Raises:
        ConfigError: If ``strengths`` is empty or not positive, or ``held_out`` out of range.
        DatasetError: If features and labels do not fit.
    """
    check_train_and_test(train, train_labels, test, test_labels)
    classes = count_classes(train_labels, test_labels)
    fit = partial(fit_ridge, strengths=strengths, classes=classes)
    best = choose_setting(fit, train, train_labels, len(strengths), held_out=held_out, seed=seed)
    chosen = strengths[best : best + 1]
    (classifier,) = fit_ridge(train, train_labels, chosen, classes=classes)
    return result_of(classifier.scores(test), test_labels, strength=chosen[0])


def fit_ridge(
    features: Tensor, labels: Tensor, strengths: Sequence[float], *, classes: int
) -> list[LinearClassifier]:
    """Ridge regressions for all strengths from one eigendecomposition, in float64.

    Features are standardised, with a constant 100 beside them for the bias; the target of the
    right class is 1, of all others -1. The weights W minimise
    ``||X W - Y||^2 + strength ||W||^2``, for which the smaller one of X'X and XX' is decomposed.

    Args:
        features: [N, E].
        labels: Class numbers [N].
        strengths: Each above 0.
        classes: C.

    Returns:
        One classifier of unstandardised features for each strength.

    Raises:
        ConfigError: If there is no strength, or one is not above 0.
    """
    if not strengths or not min(strengths) > 0:
        raise ConfigError(f"strengths: expected numbers above 0, found {list(strengths)}")
    rows = features.double()
    mean = rows.mean(dim=0)
    std = rows.std(dim=0, correction=0) + _STD_FLOOR
    x = torch.nn.functional.pad((rows - mean) / std, (0, 1), value=_BIAS)
    y = 2 * one_hot(labels, classes).double() - 1
    if len(x) >= x.shape[1]:
        eigenvalues, vectors = torch.linalg.eigh(x.T @ x)
        left, right = vectors, vectors.T @ (x.T @ y)
    else:
        eigenvalues, vectors = torch.linalg.eigh(x @ x.T)
        left, right = x.T @ vectors, vectors.T @ y
    classifiers = []
    for strength in strengths:
        solved = left @ (right / (eigenvalues.clamp(min=0) + strength)[:, None])  # [E + 1, C]
        weight = solved[:-1] / std[:, None]
        classifiers.append(LinearClassifier(weight, _BIAS * solved[-1] - mean @ weight))
    return classifiers
