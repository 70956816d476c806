"""Few examples a class: drawing them, and the nearest class mean as the simplest classifier [0].

Shapes: N training rows, M test rows, E features, C classes.

- [0]: Prototypical Networks for Few-shot Learning, 2017, https://arxiv.org/abs/1703.05175
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from owlkit.errors import ConfigError
from owlkit.evaluation.labelled import check_labels, check_train_and_test, count_classes
from owlkit.evaluation.probes.result import ProbeResult, result_of


def few_shot_indices(labels: Tensor, k: int, seed: int = 0) -> Tensor:
    """Rows of k random examples of each class, ascending; all of them where a class has fewer.

    Args:
        labels: Class numbers [N].
        k: At least 1.
        seed: Equal seeds draw equal rows, on every machine. With one seed a larger k keeps the
            rows of a smaller one.

    Returns:
        int64, on the device of the labels.

    Raises:
        ConfigError: If ``k`` is below 1.
        DatasetError: If the labels are not class numbers.
    """
    if k < 1:
        raise ConfigError(f"k: expected at least 1 example a class, found {k}")
    check_labels("labels", labels, len(labels))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    shuffled = labels.cpu()[order]
    by_class = shuffled.argsort(stable=True)
    counts = torch.bincount(shuffled)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    places = torch.arange(len(labels)) - starts
    return order[by_class[places < k]].sort().values.to(labels.device)


def prototype_accuracy(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor
) -> ProbeResult:
    """Accuracy of the class whose mean is nearest by cosine.

    The mean of a class is taken over its normalised rows and normalised again, as for the prompts
    of zero-shot classification; for k examples a class take :func:`few_shot_indices` first.

    Args:
        train: Features [N, E].
        train_labels: Class numbers [N].
        test: Features [M, E].
        test_labels: Class numbers [M]; a class without training rows is never found.

    Raises:
        DatasetError: If features and labels do not fit.
    """
    check_train_and_test(train, train_labels, test, test_labels)
    classes = count_classes(train_labels, test_labels)
    sums = train.new_zeros(classes, train.shape[1], dtype=torch.float32)
    sums.index_add_(0, train_labels, normalize(train.float(), dim=1))
    # Normalised, sum and mean are the same.
    scores = normalize(test.float(), dim=1) @ normalize(sums, dim=1).T
    absent = torch.bincount(train_labels, minlength=classes) == 0
    return result_of(scores.masked_fill(absent, -torch.inf), test_labels)
