"""What an encoder is worth: zero-shot classes, probes, retrieval, several labels an image.

Shapes: N images, M texts, C classes, E width of the vectors.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from owlkit.data.captions import CaptionedImage
from owlkit.data.class_images import ClassImages
from owlkit.data.coco import DetectionDataset
from owlkit.errors import DatasetError
from owlkit.evaluation.feature_kinds import Kind
from owlkit.evaluation.features import Encoder, ImageFiles
from owlkit.evaluation.knn import knn_probe, knn_sweep
from owlkit.evaluation.probes import (
    ProbeResult,
    few_shot_indices,
    linear_probe,
    logistic_probe,
    prototype_accuracy,
    ridge_probe,
)
from owlkit.evaluation.retrieval import retrieval_ranks
from owlkit.evaluation.zero_shot import (
    classification_metrics,
    confusion_matrix,
    multilabel_average_precision,
    multilabel_metrics,
    per_class_recall,
)

Probe = Literal["knn", "ridge", "logistic", "linear", "prototype"]

_SWEPT: dict[str, Callable[..., ProbeResult]] = {
    "ridge": ridge_probe,
    "logistic": logistic_probe,
    "linear": linear_probe,
}
_NEIGHBOURS = 20
# One draw of a few examples says little; the mean of so many is reported.
_FEW_SHOT_DRAWS = 5


@dataclass(frozen=True, eq=False)
class ClassFeatures:
    """Vectors of images that have one label each.

    Attributes:
        features: Unit vectors, unless another kind was asked for, float32 [N, E].
        labels: Index into the names, int64 [N].
        names: Of the classes (C).
        keys: What the classes are called in the data, as in :class:`ClassImages`.
    """

    features: Tensor
    labels: Tensor
    names: tuple[str, ...]
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ClassScores:
    """How well classes were told apart.

    Attributes:
        metrics: Name to value, in [0, 1]; -1 where nothing can be measured.
        names: Of the classes (C).
        counts: Images of each class, int64 [C].
        scores: Of each class, in [0, 1]; -1 without images [C]. What they are says ``column``.
        column: ``recall``, or ``AP`` where images have several labels.
        confusion: Images by their class (row) and by the class that they were taken for, int64
            [C, C]; None where images have several labels.
    """

    metrics: dict[str, float]
    names: tuple[str, ...]
    counts: Tensor
    scores: Tensor
    column: str
    confusion: Tensor | None = None


def encode_classes(
    encoder: Encoder, images: ClassImages, kind: Kind = "embeddings"
) -> ClassFeatures:
    """Encodes labelled images; the vectors stay on the model's device.

    Args:
        encoder: Of any model.
        images: What to encode.
        kind: What they become; see :data:`~owlkit.evaluation.feature_kinds.Kind`.

    Raises:
        DatasetError: If more than one image and more than 1 % cannot be read.
        TokenError: If layers are asked of a tower that is no vision transformer.
    """
    encoded = encoder.images(images, kind)
    encoded.check_enough()
    labels = torch.from_numpy(np.asarray(images.labels, dtype=np.int64))[encoded.rows]
    features = encoded.features.to(encoder.device)
    return ClassFeatures(features, labels.to(encoder.device), tuple(images.names), images.keys)


def measure_zero_shot(
    encoder: Encoder, test: ClassFeatures, *, templates: str | Sequence[str]
) -> ClassScores:
    """Classifies images by the names of the classes alone.

    Source: CLIP, 2021, https://arxiv.org/abs/2103.00020, section 3.1.

    Args:
        encoder: Of a pair of towers; the one that the vectors come from.
        test: Images to classify.
        templates: Around the names; see ``Encoder.class_prompts``.

    Returns:
        With the metrics ``zero_shot_top1``, ``zero_shot_top5`` and
        ``zero_shot_mean_per_class_recall``.
    """
    classes = encoder.class_prompts(test.names, templates).to(test.features)
    scores = test.features @ classes.T
    metrics = classification_metrics(scores, test.labels)
    return ClassScores(
        metrics={f"zero_shot_{name}": value for name, value in metrics.items()},
        names=test.names,
        counts=torch.bincount(test.labels, minlength=len(test.names)).cpu(),
        scores=per_class_recall(scores, test.labels).nan_to_num(nan=-1.0).cpu(),
        column="recall",
        confusion=confusion_matrix(scores, test.labels).cpu(),
    )


def measure_probes(
    train: ClassFeatures,
    test: ClassFeatures,
    *,
    probes: Sequence[Probe] = ("knn", "ridge"),
    neighbours: Sequence[int] = (),
    seed: int = 0,
) -> dict[str, float]:
    """Classifies images by what labelled ones teach.

    Args:
        train: What to learn from, of the same classes.
        test: What to measure on.
        probes: ``knn`` (20 weighted neighbours), ``ridge``, ``logistic``, ``linear`` (regularised
            as is best on a fifth of the training images) or ``prototype`` (the nearest mean).
        neighbours: Further numbers of neighbours to vote, 1 to the number of training images; the
            authors of DINO try 10, 20, 100 and 200.
        seed: Of the images held out to choose by, and of the order of batches.

    Returns:
        ``knn_top1``, ``knn_top5``, ``knn_mean_per_class_recall`` and so on, in [0, 1]; beside them
        the strength of regularisation that was chosen, as ``ridge_strength``. With ``neighbours``
        also ``knn10_top1``, ``knn10_top5`` and so on.

    Raises:
        DatasetError: If the classes differ, or there are too few images.
        ConfigError: If a number of neighbours is out of range.
    """
    check_same_classes(train, test)
    rows = train.features, train.labels, test.features, test.labels
    metrics: dict[str, float] = {}
    for probe in probes:
        if probe == "knn":
            found = knn_probe(*rows, k=min(_NEIGHBOURS, len(train.labels)))
        elif probe == "prototype":
            found = prototype_accuracy(*rows)
        else:
            found = _SWEPT[probe](*rows, seed=seed)
        for name in ("top1", "top5", "mean_per_class_recall", "strength"):
            if (value := getattr(found, name)) is not None:
                metrics[f"{probe}_{name}"] = value
    if neighbours:
        for k, found in knn_sweep(*rows, ks=neighbours).items():
            metrics |= {f"knn{k}_top1": found.top1, f"knn{k}_top5": found.top5}
    return metrics


def measure_few_shot(
    train: ClassFeatures, test: ClassFeatures, *, shots: Sequence[int], seed: int = 0
) -> dict[str, float]:
    """Classifies images by the nearest mean of a few examples of each class.

    Args:
        train: What the examples are drawn from, of the same classes.
        test: What to measure on.
        shots: Numbers of examples a class; of a class that has fewer, all are taken.
        seed: Of the draws.

    Returns:
        ``few_shot_4_top1`` and so on, in [0, 1]: means over five draws.

    Raises:
        DatasetError: If the classes differ.
        ConfigError: If a number is below 1.
    """
    check_same_classes(train, test)
    metrics = {}
    for shot in shots:
        drawn = []
        for draw in range(_FEW_SHOT_DRAWS):
            rows = few_shot_indices(train.labels, shot, seed=seed * _FEW_SHOT_DRAWS + draw)
            drawn.append(
                prototype_accuracy(
                    train.features[rows], train.labels[rows], test.features, test.labels
                ).top1
            )
        metrics[f"few_shot_{shot}_top1"] = sum(drawn) / len(drawn)
    return metrics


def check_same_classes(
    train: ClassImages | ClassFeatures, test: ClassImages | ClassFeatures
) -> None:
    """Refuses to measure on other classes than those that are learned.

    They are compared by what the data calls them, where both say so: names that are given to both
    are always the same.

    Args:
        train: Of the classes to learn.
        test: Of the classes to measure on, in the same order.

    Raises:
        DatasetError: If they differ; names the first that does.
    """
    said = bool(train.keys and test.keys)
    pairs = zip_longest(train.keys, test.keys) if said else zip_longest(train.names, test.names)
    for number, (one, other) in enumerate(pairs):
        if one != other:
            raise DatasetError(
                "expected the same classes to learn from and to measure on, found that class "
                f"{number} is {one!r} in one and {other!r} in the other"
            )


def measure_multi_label(
    encoder: Encoder, dataset: DetectionDataset, *, templates: str | Sequence[str]
) -> ClassScores:
    """Finds out which classes are in an image, of which it may show several, by their names.

    A class is in an image if anything of it is annotated there, crowds included.

    Args:
        encoder: Of a pair of towers.
        dataset: Images with boxes, each of the classes annotated in all images.
        templates: Around the names; see ``Encoder.class_prompts``.

    Returns:
        With the metric ``multi_label_mAP``, the mean over classes that are in any image; -1 if
        none is.

    Raises:
        DatasetError: If classes are not annotated in all images, as in LVIS, or too many images
            cannot be read.
    """
    if not dataset.exhaustive:
        raise DatasetError(
            "expected annotations that name every class of every image, found a federated data "
            "set (LVIS): where a class was not looked for, nothing can be measured"
        )
    encoded = encoder.images(ImageFiles(tuple(image.path for image in dataset.images)))
    encoded.check_enough()
    targets = torch.zeros(len(dataset.images), len(dataset.names), dtype=torch.bool)
    for row, image in enumerate(dataset.images):
        # What is unknown in such a data set was annotated, but not with a box that can be used.
        targets[row, [*image.labels.tolist(), *image.unknown]] = True
    targets = targets[encoded.rows]
    classes = encoder.class_prompts(dataset.names, templates)
    scores, counts = encoded.features @ classes.T, targets.sum(dim=0)
    precision = multilabel_average_precision(scores, targets)
    mean = multilabel_metrics(scores, targets)["mAP"] if counts.any() else -1.0
    return ClassScores(
        metrics={"multi_label_mAP": mean},
        names=dataset.names,
        counts=counts,
        scores=torch.where(counts > 0, precision, -1.0),
        column="AP",
    )


def measure_retrieval(
    encoder: Encoder, images: Sequence[CaptionedImage], *, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Finds images by their captions and captions by their images.

    Args:
        encoder: Of a pair of towers.
        images: With one or more captions each.
        ks: Lengths of the lists in which a match counts.

    Returns:
        ``text_to_image_recall@K`` and ``image_to_text_recall@K``, in [0, 1]; mean and median ranks
        from 1, as ``text_to_image_median_rank``.

    Raises:
        DatasetError: If too many images cannot be read.
    """
    encoded = encoder.images(ImageFiles(tuple(image.path for image in images)))
    encoded.check_enough()
    texts: list[str] = []
    owners: list[int] = []
    for place, row in enumerate(encoded.rows.tolist()):
        texts += images[row].captions
        owners += [place] * len(images[row].captions)
    ranks = retrieval_ranks(
        encoded.features.to(encoder.device),
        encoder.texts(texts).to(encoder.device),
        torch.tensor(owners, device=encoder.device),
    )
    return ranks.recalls(ks) | ranks.places()


def format_classes(scored: ClassScores) -> str:
    """A table of the classes, best first, with what they are most often taken for."""
    others = _most_confused(scored)
    rows = [("class", "images", scored.column, "" if others is None else "most taken for")]
    for row in np.argsort(-scored.scores.numpy(), kind="stable").tolist():
        score = "-" if scored.scores[row] == -1 else f"{scored.scores[row]:.4f}"
        other = "" if others is None else others[row]
        rows.append((scored.names[row], str(int(scored.counts[row])), score, other))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{name:{widths[0]}}  {count:>{widths[1]}}  {score:>{widths[2]}}  {other}".rstrip()
        for name, count, score, other in rows
    )


def _most_confused(scored: ClassScores) -> list[str] | None:
    """The other class that most images of each class were taken for, with their number."""
    if scored.confusion is None:
        return None
    wrong = scored.confusion.clone().fill_diagonal_(0)
    counts, others = wrong.max(dim=1)
    return [
        f"{scored.names[other]} ({count})" if count else ""
        for count, other in zip(counts.tolist(), others.tolist(), strict=True)
    ]


def write_classes(scored: ClassScores, file: Path) -> None:
    """Writes one row a class: name, number of images, score; CSV, in the order of the classes."""
    with file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["class", "images", scored.column])
        rows = zip(scored.names, scored.counts.tolist(), scored.scores.tolist(), strict=True)
        writer.writerows((name, count, "" if score == -1 else score) for name, count, score in rows)
