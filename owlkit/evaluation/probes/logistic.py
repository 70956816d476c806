"""Logistic regression by L-BFGS on all rows at once, as CLIP's linear probe [0].

Shapes: N training rows, M test rows, E features, C classes.

- [0]: Learning Transferable Visual Models From Natural Language Supervision, 2021, appendix A.3,
  https://arxiv.org/abs/2103.00020
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from owlkit.errors import ConfigError
from owlkit.evaluation.labelled import check_train_and_test, count_classes
from owlkit.evaluation.probes.choice import choose_setting
from owlkit.evaluation.probes.result import LinearClassifier, ProbeResult, result_of

LOGISTIC_STRENGTHS: tuple[float, ...] = tuple(10.0**power for power in range(0, -8, -1))
"""1 to 1e-7, strongest first, as each fit starts from the one before."""

_HISTORY = 20
_FLOOR = 1e-9
"""Least curvature beside the largest, where features do not vary at all."""


def logistic_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    strengths: Sequence[float] = LOGISTIC_STRENGTHS,
    held_out: float = 0.2,
    seed: int = 0,
    max_iterations: int = 1000,
) -> ProbeResult:
    """Accuracy of logistic regression with the L2 strength that is best on rows held out.

    With the strength chosen it learns from all training rows again.

    Args:
        train: Features [N, E].
        train_labels: Class numbers [N].
        test: Features [M, E].
        test_labels: Class numbers [M].
        strengths: To choose from, each at least 0; of equally good ones the first. A single one is
            taken as it is; where no class has two rows to choose by, so is the middle one. A
            strength is 1 / (C N) in the terms of scikit-learn.
        held_out: Share of the training rows of each class, above 0 and below 1.
        seed: Of the choice of rows held out.
        max_iterations: Of L-BFGS, for each strength.

    Raises:
        ConfigError: If ``strengths`` is empty or negative, or ``held_out`` out of range.
        DatasetError: If features and labels do not fit.
    """
    check_train_and_test(train, train_labels, test, test_labels)
    classes = count_classes(train_labels, test_labels)
    fit = partial(fit_logistic, classes=classes, max_iterations=max_iterations)
    best = choose_setting(
        partial(fit, strengths=strengths),
        train,
        train_labels,
        len(strengths),
        held_out=held_out,
        seed=seed,
    )
    chosen = strengths[best : best + 1]
    (classifier,) = fit(train, train_labels, chosen)
    return result_of(classifier.scores(test), test_labels, strength=chosen[0])


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    strengths: Sequence[float],
    *,
    classes: int,
    max_iterations: int = 1000,
) -> list[LinearClassifier]:
    """Softmax regressions for all strengths in float64, each starting from the one before.

    Minimises the mean cross-entropy ``+ strength / 2 ||W||^2``; the bias is free.

    Args:
        features: [N, E].
        labels: Class numbers [N].
        strengths: Each at least 0.
        classes: C.
        max_iterations: Of L-BFGS, for each strength.

    Returns:
        One classifier for each strength, in their order.

    Raises:
        ConfigError: If there is no strength, or one is below 0.
    """
    if not strengths or not min(strengths) >= 0:
        raise ConfigError(f"strengths: expected numbers >= 0, found {list(strengths)}")
    # A shift of the features is taken up by the free bias, and a rotation changes no norm.
    mean = features.double().mean(dim=0)
    rows = features.double() - mean
    variances, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
    rows = rows @ axes
    weight = rows.new_zeros(rows.shape[1], classes)  # [E, C] along the axes
    bias = rows.new_zeros(classes)
    classifiers = []
    for strength in strengths:
        # About the square root of the curvature along each axis: in this measure all directions
        # are equally steep, and L-BFGS needs few steps.
        curvature = variances.clamp(min=0) / classes + strength
        scale = curvature.clamp(min=_FLOOR * float(curvature.max())).rsqrt()[:, None]
        scaled, bias = _minimise(
            rows * scale.T,
            labels,
            weight / scale,
            bias,
            decay=strength * scale.square(),
            max_iterations=max_iterations,
        )
        weight = scaled * scale
        rotated = axes @ weight
        classifiers.append(LinearClassifier(rotated, bias - mean @ rotated))
    return classifiers


def _minimise(
    rows: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    decay: Tensor,
    max_iterations: int,
) -> tuple[Tensor, Tensor]:
    """Weight [E, C] and bias [C] of least loss, from these on; ``decay`` [E, 1] of each feature."""
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        history_size=_HISTORY,
        tolerance_grad=1e-7,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def loss() -> float:
        with torch.enable_grad():
            value = cross_entropy(rows @ weight + bias, labels)
            value = value + (decay * weight.square()).sum() / 2
            weight.grad, bias.grad = torch.autograd.grad(value, [weight, bias])
        return float(value.detach())

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
