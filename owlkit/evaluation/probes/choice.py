"""Choosing between the settings of a probe on training rows held out; the test rows have no say.

Shapes: N rows, E features.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from owlkit.errors import ConfigError, DatasetError
from owlkit.evaluation.probes.result import LinearClassifier
from owlkit.evaluation.zero_shot import classification_metrics


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits rows into those to learn from and those to choose settings by, class by class.

    Args:
        labels: Class numbers [N].
        share: Of each class that is held out, above 0 and below 1; of two or more rows at least
            one is, and one is left.
        seed: Equal seeds split alike.

    Returns:
        Rows to learn from, and rows held out; int64, ascending.

    Raises:
        ConfigError: If ``share`` is out of range.
        DatasetError: If no class has two rows.
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
    if not held.any():
        raise DatasetError(
            "expected two rows of some class, to choose between settings on rows held out, found"
            " one of each: pass a single setting"
        )
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
