"""A linear layer trained by gradient descent on features computed once, as in CLIP_benchmark [0].

All settings of a sweep train side by side: one batch of features serves every one of them.

Shapes: N training rows, M test rows, E features, C classes, B batch.

- [0]: CLIP_benchmark, linear probe, 2023, https://github.com/LAION-AI/CLIP_benchmark
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from owlkit.errors import ConfigError
from owlkit.evaluation.labelled import check_train_and_test, count_classes
from owlkit.evaluation.probes.choice import choose_setting
from owlkit.evaluation.probes.result import LinearClassifier, ProbeResult, result_of

_MOMENTUM = 0.9


@dataclass(frozen=True)
class LinearSchedule:
    """How the layer is trained. Every learning rate is tried with every weight decay.

    Attributes:
        optimizer: ``adamw``, or ``sgd`` with momentum 0.9.
        learning_rates: At the start; each falls to 0 along a cosine over all steps.
        weight_decays: Of the weight; the bias has none.
        epochs: Passes over the training rows.
        batch_size: Rows a step.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rates: tuple[float, ...] = (0.1,)
    weight_decays: tuple[float, ...] = tuple(10.0**power for power in range(-6, 1))
    epochs: int = 10
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Refuses settings with which nothing could be trained."""
        if self.optimizer not in ("adamw", "sgd"):
            raise ConfigError(f"optimizer: expected adamw or sgd, found {self.optimizer!r}")
        if not self.learning_rates or not min(self.learning_rates) > 0:
            raise ConfigError(
                f"learning_rates: expected numbers above 0, found {self.learning_rates}"
            )
        if not self.weight_decays or not min(self.weight_decays) >= 0:
            raise ConfigError(f"weight_decays: expected numbers >= 0, found {self.weight_decays}")
        if self.epochs < 1 or self.batch_size < 1:
            raise ConfigError(
                f"epochs and batch_size: expected at least 1, found {self.epochs} and"
                f" {self.batch_size}"
            )

    def settings(self) -> list[tuple[float, float]]:
        """All pairs of learning rate and weight decay."""
        return [(rate, decay) for rate in self.learning_rates for decay in self.weight_decays]


def linear_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    schedule: LinearSchedule | None = None,
    held_out: float = 0.2,
    seed: int = 0,
) -> ProbeResult:
    """Accuracy of a trained linear layer with the settings that are best on rows held out.

    With the settings chosen it learns from all training rows again. Features are L2-normalised
    here.

    Args:
        train: Features [N, E].
        train_labels: Class numbers [N].
        test: Features [M, E].
        test_labels: Class numbers [M].
        schedule: How to train, and what to choose from; the default of its class if None. A single
            setting is taken as it is; where no class has two rows to choose by, so is the middle
            one.
        held_out: Share of the training rows of each class, above 0 and below 1.
        seed: Of the choice of rows held out and of the order of the batches.

    Returns:
        With the chosen weight decay as the strength.

    Raises:
        ConfigError: If ``held_out`` is out of range.
        DatasetError: If features and labels do not fit.
    """
    check_train_and_test(train, train_labels, test, test_labels)
    schedule = schedule or LinearSchedule()
    classes = count_classes(train_labels, test_labels)
    train, test = normalize(train.float(), dim=1), normalize(test.float(), dim=1)
    settings = schedule.settings()
    fit = partial(fit_linear, classes=classes, seed=seed)
    best = choose_setting(
        partial(fit, schedule=schedule),
        train,
        train_labels,
        len(settings),
        held_out=held_out,
        seed=seed,
    )
    rate, decay = settings[best]
    chosen = replace(schedule, learning_rates=(rate,), weight_decays=(decay,))
    (classifier,) = fit(train, train_labels, schedule=chosen)
    return result_of(classifier.scores(test), test_labels, strength=decay, learning_rate=rate)


def fit_linear(
    features: Tensor, labels: Tensor, schedule: LinearSchedule, *, classes: int, seed: int = 0
) -> list[LinearClassifier]:
    """Trains one classifier for each setting of the schedule, all from zero by the same batches.

    Args:
        features: float32 [N, E], taken as they are.
        labels: Class numbers [N].
        schedule: How to train.
        classes: C.
        seed: Of the order of the batches.

    Returns:
        One classifier for each of ``schedule.settings()``, in their order.
    """
    settings = schedule.settings()
    shape = (features.shape[1], classes)
    weights = [nn.Parameter(features.new_zeros(shape)) for _ in settings]
    biases = [nn.Parameter(features.new_zeros(classes)) for _ in settings]
    optimizer = _make_optimizer(schedule, settings, weights, biases)
    steps = schedule.epochs * math.ceil(len(features) / schedule.batch_size)
    cosine = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    generator = np.random.default_rng(seed)
    for _ in range(schedule.epochs):
        order = torch.from_numpy(generator.permutation(len(features))).to(features.device)
        for rows in torch.split(order, schedule.batch_size):
            batch, targets = features[rows], labels[rows]
            optimizer.zero_grad()
            with torch.enable_grad():
                pairs = zip(weights, biases, strict=True)
                # Each has a gradient from its own term alone.
                losses = [cross_entropy(batch @ w + b, targets) for w, b in pairs]
                torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            cosine.step()
    return [
        LinearClassifier(weight.detach(), bias.detach())
        for weight, bias in zip(weights, biases, strict=True)
    ]


def _make_optimizer(
    schedule: LinearSchedule,
    settings: Sequence[tuple[float, float]],
    weights: Sequence[nn.Parameter],
    biases: Sequence[nn.Parameter],
) -> torch.optim.Optimizer:
    groups = []
    for (rate, decay), weight, bias in zip(settings, weights, biases, strict=True):
        groups.append({"params": [weight], "lr": rate, "weight_decay": decay})
        groups.append({"params": [bias], "lr": rate, "weight_decay": 0.0})
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=_MOMENTUM)
    return torch.optim.AdamW(groups)
