"""Finding images by images: mean average precision and precision among the first.

Shapes: Q queries, N images of the database, E width of the vectors.

Both numbers are those of the landmark benchmarks [0], which DINO [1] reports: precision is averaged
over the steps of recall by the trapezoidal rule, so that the one right image at rank 2 gives 0.25,
not 0.5; and mP@k counts no further than the last right image.

- [0]: Revisiting Oxford and Paris, 2018, https://github.com/filipradenovic/revisitop
- [1]: DINO, 2021, https://github.com/facebookresearch/dino, eval_image_retrieval.py and
  eval_copy_detection.py
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from owlkit.errors import ConfigError, DatasetError
from owlkit.evaluation.encoder import ClassFeatures, check_same_classes
from owlkit.evaluation.labelled import check_features

_SIMILARITIES = 1 << 22
"""Held at a time, beside as many ranks."""


def measure_class_retrieval(
    train: ClassFeatures, test: ClassFeatures, *, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Finds images of the same class among labelled ones.

    Args:
        train: What is searched, N images of the same classes.
        test: What is searched for, Q images; those whose class is nowhere in ``train`` are left
            out.
        ks: Lengths of the lists for mP@k.

    Returns:
        ``retrieval_mAP``, ``retrieval_mP@1`` and so on, in [0, 1].

    Raises:
        DatasetError: If the classes differ, or no query can be answered.
        ConfigError: If one of ``ks`` is below 1.
    """
    check_same_classes(train, test)
    answerable = torch.isin(test.labels, train.labels)
    if not answerable.any():
        raise DatasetError("expected images of one class in both sets, found none")
    labels = test.labels[answerable]
    found = rank_images(
        test.features[answerable],
        train.features,
        lambda rows: labels[rows, None] == train.labels[None],
        ks=ks,
    )
    return {f"retrieval_{name}": value for name, value in found.items()}


def rank_images(
    queries: Tensor,
    database: Tensor,
    relevant: Callable[[slice], Tensor],
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Ranks a database by similarity to each query.

    Args:
        queries: Unit rows [Q, E].
        database: Unit rows [N, E]; of equally similar ones the first comes first.
        relevant: Which images are right for a slice of the queries, bool [q, N]; at least one each.
        ks: Lengths of the lists for mP@k.

    Returns:
        ``mAP`` and ``mP@k`` for each k, means over the queries, in [0, 1].

    Raises:
        DatasetError: If vectors do not fit one another, or a query has no right image.
        ConfigError: If one of ``ks`` is below 1.
    """
    check_features("queries", queries)
    check_features("database", database)
    if min(ks, default=1) < 1:
        raise ConfigError(f"ks: expected numbers >= 1, found {list(ks)}")
    columns = database.float().T
    step = max(1, _SIMILARITIES // len(database))
    totals: dict[str, float] = {}
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        similarity = queries[rows].float() @ columns
        order = similarity.argsort(dim=1, descending=True, stable=True)
        for name, values in ranking_metrics(relevant(rows).gather(1, order), ks).items():
            totals[name] = totals.get(name, 0.0) + float(values.sum())
    return {name: total / len(queries) for name, total in totals.items()}


def ranking_metrics(hits: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    """Average precision and precision among the first k of each ranking.

    Args:
        hits: Which images are right, best first, bool [Q, N].
        ks: Lengths of the lists.

    Returns:
        ``mAP`` and ``mP@k``, float64 [Q].

    Raises:
        DatasetError: If nothing is right for a query.
    """
    counts = hits.sum(dim=1)
    if not bool((counts > 0).all()):
        raise DatasetError("expected a right image for every query, found a query with none")
    found = hits.cumsum(dim=1).double()
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device).double()
    before = torch.where(ranks > 1, (found - 1) / (ranks - 1).clamp(min=1), 1.0)
    precision = (found / ranks + before) / 2
    metrics = {"mAP": (precision * hits).sum(dim=1) / counts}
    last = torch.where(hits, ranks, 0.0).amax(dim=1)
    for k in ks:
        cut = last.clamp(max=k)
        metrics[f"mP@{k}"] = found.gather(1, cut.long()[:, None] - 1)[:, 0] / cut
    return metrics
