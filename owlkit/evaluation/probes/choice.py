"""Choosing between the settings of a probe on training rows held out; the test rows have no say.

Shapes: N rows, E features.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from owlkit.errors import ConfigError
from owlkit.evaluation.probes.result import LinearClassifier
from owlkit.evaluation.zero_shot import classification_metrics


def choose_setting(
    fit: Callable[[Tensor, Tensor], Sequence[LinearClassifier]],
    features: Tensor,
    labels: Tensor,
    settings: int,
    *,
    held_out: float,
    seed: int,
) -> int:
    """Index of the setting that is best on rows held out; of equally good ones the first.

    A single setting is taken as it is. Where no class has two rows, nothing can be held out, and
    the setting in the middle is taken.

    Args:
        fit: Learns one classifier with each setting from features [n, E] and labels [n].
        features: To learn from [N, E].
        labels: Class numbers [N].
        settings: How many there are.
        held_out: Share of the rows of each class, above 0 and below 1.
        seed: Of the choice of these rows.

    Raises:
        ConfigError: If ``held_out`` is out of range.
    """
    if settings <= 1:
        return 0
    rows, held = hold_out(labels, held_out, seed)
    if not len(held):
        return settings // 2
    return choose(fit(features[rows], labels[rows]), features[held], labels[held])


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits rows into those to learn from and those to choose settings by, class by class.

    Args:
        labels: Class numbers [N].
        share: Of each class that is held out, above 0 and below 1; of two or more rows at least
            one is, and one is left; of a single one none.
        seed: Equal seeds split alike.

    Returns:
        Rows to learn from, and rows held out; int64, ascending.

    Raises:
        ConfigError: If ``share`` is out of range.
    """
    if not 0 < share < 1:
        raise ConfigError(f"held_out: expected a share above 0 and below 1, found {share}")
    generator = np.random.default_rng(seed)
    numbers = labels.cpu().numpy()
    held = np.zeros(len(numbers), dtype=bool)
    for label in np.unique(numbers):
        rows = np.flatnonzero(numbers == label)
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        held[generator.permutation(rows)[:count]] = True
    split = torch.from_numpy(held).to(labels.device)
    return (~split).nonzero().flatten(), split.nonzero().flatten()


def choose(classifiers: Sequence[LinearClassifier], features: Tensor, labels: Tensor) -> int:
    """Index of the classifier with the best top-1 accuracy on these rows; of equals the first.

    Args:
        classifiers: One for each setting.
        features: Held out [N, E].
        labels: Class numbers [N].
    """
    accuracies = [
        classification_metrics(each.scores(features), labels)["top1"] for each in classifiers
    ]
    return accuracies.index(max(accuracies))
