"""Classification by names alone: class embeddings from prompts, scores, and their metrics [0].

Shapes: N images, C classes, T templates, E embedding size. All metrics are in [0, 1]. Of equal
scores the lower class number is the better.

- [0]: Learning Transferable Visual Models From Natural Language Supervision, 2021,
  https://arxiv.org/abs/2103.00020
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from owlkit.errors import DatasetError
from owlkit.evaluation.labelled import check_labels


def average_prompts(embeds: Tensor) -> Tensor:
    """One embedding for each class: its prompts normalised, averaged, normalised again.

    The mean of embeddings, not of probabilities, so that a class costs one product however many
    templates it has.

    Args:
        embeds: Of every template filled with every class name [C, T, E].

    Returns:
        Unit rows [C, E].

    Raises:
        DatasetError: If there are not three dimensions, or no template.
    """
    if embeds.ndim != 3 or not embeds.shape[1]:
        raise DatasetError(f"expected prompt embeddings [C, T, E], found {list(embeds.shape)}")
    return normalize(normalize(embeds, dim=2).mean(dim=1), dim=1)


def zero_shot_scores(
    image_embeds: Tensor, class_embeds: Tensor, logit_scale: float = 100.0
) -> Tensor:
    """Scaled similarity of every image to every class [N, C].

    Args:
        image_embeds: Unit rows [N, E].
        class_embeds: Unit rows [C, E], as of :func:`average_prompts`.
        logit_scale: The factor. It changes no ranking.
    """
    return logit_scale * image_embeds @ class_embeds.T


def classification_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """How often the right class is the best, or among the five best.

    Args:
        scores: Higher is better [N, C].
        labels: Class numbers [N].

    Returns:
        `top1`, `top5` (with fewer than five classes all are among the five best) and
        `mean_per_class_recall` over the classes that occur.

    Raises:
        DatasetError: If there is no image, or scores and labels do not fit.
    """
    ranks = _label_ranks(scores, labels)
    recalls = _recall_by_class(ranks, labels, scores.shape[1])
    return {
        "top1": _share(ranks < 1),
        "top5": _share(ranks < 5),
        "mean_per_class_recall": float(recalls.nanmean()),
    }


def per_class_recall(scores: Tensor, labels: Tensor) -> Tensor:
    """Share of the images of each class that are recognised, float64 [C]; NaN for classes without.

    Args:
        scores: Higher is better [N, C].
        labels: Class numbers [N].

    Raises:
        DatasetError: If there is no image, or scores and labels do not fit.
    """
    return _recall_by_class(_label_ranks(scores, labels), labels, scores.shape[1])


def confusion_matrix(scores: Tensor, labels: Tensor) -> Tensor:
    """Counts of images by true class (row) and best class (column), int64 [C, C].

    Args:
        scores: Higher is better [N, C].
        labels: Class numbers [N].

    Raises:
        DatasetError: If there is no image, or scores and labels do not fit.
    """
    _check_scores(scores, labels)
    classes = scores.shape[1]
    cells = labels * classes + scores.argmax(dim=1)
    return torch.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def multilabel_average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """Average precision of each class where an image may have several, float64 [C].

    The images are sorted by falling score, of equal ones the first first; the precision down to
    each positive is averaged over the positives.

    Args:
        scores: Higher is better [N, C].
        targets: True, or above 0, for the classes of an image [N, C].

    Returns:
        In [0, 1]; 0 for a class without positives.

    Raises:
        DatasetError: If the shapes differ or a score is NaN.
    """
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise DatasetError(
            f"expected scores and targets [N, C], found {list(scores.shape)} and"
            f" {list(targets.shape)}"
        )
    _check_numbers(scores)
    order = scores.argsort(dim=0, descending=True, stable=True)
    hits = (targets > 0).gather(0, order).double()
    places = torch.arange(1, len(scores) + 1, device=scores.device)[:, None]
    precisions = hits.cumsum(dim=0) / places
    return (precisions * hits).sum(dim=0) / hits.sum(dim=0).clamp(min=1)


def multilabel_metrics(scores: Tensor, targets: Tensor) -> dict[str, float]:
    """`mAP`: the mean average precision over the classes that have positives; NaN if none has.

    Args:
        scores: Higher is better [N, C].
        targets: True, or above 0, for the classes of an image [N, C].

    Raises:
        DatasetError: If the shapes differ or a score is NaN.
    """
    precisions = multilabel_average_precision(scores, targets)
    return {"mAP": float(precisions[(targets > 0).any(dim=0)].mean())}


def _label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes are better than the right one [N]."""
    _check_scores(scores, labels)
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(dim=1)


def _recall_by_class(ranks: Tensor, labels: Tensor, classes: int) -> Tensor:
    images = torch.bincount(labels, minlength=classes)
    found = torch.bincount(labels[ranks == 0], minlength=classes)
    return found.double() / images  # 0 / 0 is NaN


def _share(hits: Tensor) -> float:
    return int(hits.sum()) / len(hits)


def _check_scores(scores: Tensor, labels: Tensor) -> None:
    if scores.ndim != 2 or not scores.numel():
        raise DatasetError(f"expected scores [N, C], found shape {list(scores.shape)}")
    check_labels("labels", labels, len(scores))
    if int(labels.max()) >= scores.shape[1]:
        raise DatasetError(
            f"expected labels below {scores.shape[1]}, the number of classes, found"
            f" {int(labels.max())}"
        )
    _check_numbers(scores)


def _check_numbers(scores: Tensor) -> None:
    # NaN compares as false, and would count as recognised.
    if scores.isnan().any():
        raise DatasetError(f"expected scores, found {int(scores.isnan().sum())} NaN among them")
