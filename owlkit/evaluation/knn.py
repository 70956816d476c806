"""Weighted nearest neighbours on frozen features, as DINO measures them [0].

Shapes: N training rows, M test rows, E features, C classes, K neighbours.

- [0]: Emerging Properties in Self-Supervised Vision Transformers, 2021,
  https://arxiv.org/abs/2104.14294
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from owlkit.errors import ConfigError
from owlkit.evaluation.labelled import check_train_and_test, count_classes
from owlkit.evaluation.probes.result import ProbeResult, result_of

_SIMILARITIES = 1 << 24
"""Held at a time: 64 MiB in float32."""


def knn_accuracy(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    k: int = 20,
    temperature: float = 0.07,
) -> tuple[float, float]:
    """Accuracy of the class that the nearest training rows vote for.

    The k training rows with the largest dot product vote for their label with the weight
    exp(similarity / temperature).

    Args:
        train: L2-normalised rows [N, E]; they are not normalised here.
        train_labels: Class numbers [N].
        test: L2-normalised rows [M, E].
        test_labels: Class numbers [M]; a class without training rows is never found.
        k: Neighbours that vote, from 1 to N.
        temperature: Above 0; the smaller, the more the nearest decides.

    Returns:
        Top-1 and top-5 accuracy, in [0, 1]. Classes without votes follow those with votes, by
        number, so that top-5 says little where k is small.

    Raises:
        ConfigError: If ``k`` or ``temperature`` is out of range.
        DatasetError: If features and labels do not fit.
    """
    found = knn_probe(train, train_labels, test, test_labels, k=k, temperature=temperature)
    return found.top1, found.top5


def knn_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> ProbeResult:
    """What :func:`knn_accuracy` finds, with the mean recall of the classes."""
    return knn_sweep(train, train_labels, test, test_labels, ks=(k,), temperature=temperature)[k]


def knn_sweep(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
) -> dict[int, ProbeResult]:
    """What :func:`knn_probe` finds for several numbers of neighbours, by number.

    The neighbours are looked for once; the default numbers are those of the authors of DINO.
    """
    check_train_and_test(train, train_labels, test, test_labels)
    classes = count_classes(train_labels, test_labels)
    votes = _votes(train, train_labels, test, ks=ks, temperature=temperature, classes=classes)
    return {k: result_of(each, test_labels) for k, each in zip(ks, votes, strict=True)}


def knn_votes(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    classes: int | None = None,
) -> Tensor:
    """Each class's share of the votes for each test row.

    A share is the weights exp(similarity / temperature) of the class over those of all k
    neighbours: the ranking of the weights, without their overflow at low temperatures. Which of
    equally near rows are the last ones to vote, as of copies of an image, is up to
    :func:`torch.topk`, and may differ between devices.

    Args:
        train: L2-normalised rows [N, E].
        train_labels: Class numbers [N].
        test: L2-normalised rows [M, E].
        k: Neighbours that vote, from 1 to N.
        temperature: Above 0.
        classes: C; one more than the largest training label if None.

    Returns:
        float32 [M, C]; each row sums to 1.

    Raises:
        ConfigError: If ``k`` or ``temperature`` is out of range.
    """
    classes = classes or count_classes(train_labels)
    (votes,) = _votes(train, train_labels, test, ks=(k,), temperature=temperature, classes=classes)
    return votes


def _votes(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    *,
    ks: Sequence[int],
    temperature: float,
    classes: int,
) -> list[Tensor]:
    """The votes [M, C] for each number of neighbours."""
    for k in ks:
        if not 1 <= k <= len(train):
            raise ConfigError(f"k: expected 1 to {len(train)}, the training rows, found {k}")
    if not temperature > 0:
        raise ConfigError(f"temperature: expected a number above 0, found {temperature}")
    columns = train.float().T
    rows = max(1, _SIMILARITIES // len(train))
    votes = [test.new_zeros(len(test), classes, dtype=torch.float32) for _ in ks]
    for start in range(0, len(test), rows):
        chunk = slice(start, start + rows)
        similarity, neighbours = (test[chunk].float() @ columns).topk(max(ks), dim=1)
        for k, each in zip(ks, votes, strict=True):
            weights = (similarity[:, :k] / temperature).softmax(dim=1)
            each[chunk].scatter_add_(1, train_labels[neighbours[:, :k]], weights)
    return votes
