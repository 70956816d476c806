"""Rankings of images against the benchmarks' own code and one query at a time."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from owlkit.errors import ConfigError, DatasetError
from owlkit.evaluation import image_retrieval
from owlkit.evaluation.encoder import ClassFeatures
from owlkit.evaluation.image_retrieval import measure_class_retrieval, rank_images, ranking_metrics


def revisitop_ap(ranks: np.ndarray, nres: int) -> float:
    """compute_ap of filipradenovic/revisitop; ranks from 0."""
    ap = 0.0
    for j, rank in enumerate(ranks):
        precision_0 = 1.0 if rank == 0 else float(j) / rank
        ap += (precision_0 + float(j + 1) / (rank + 1)) / nres / 2.0
    return ap


def revisitop_precision(ranks: np.ndarray, k: int) -> float:
    """mP@k as compute_map of filipradenovic/revisitop has it."""
    positions = ranks + 1
    kq = min(max(positions), k)
    return (positions <= kq).sum() / kq


def vectors(count: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_classes_are_found_as_the_benchmarks_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_retrieval, "_SIMILARITIES", 7 * 40)
    names = tuple("abcd")
    train = ClassFeatures(vectors(40, 0), torch.arange(40) % 3, names)
    # Nothing of class 3 can be found.
    test = ClassFeatures(vectors(30, 1), torch.arange(30) % 4, names)
    found = measure_class_retrieval(train, test, ks=(1, 5, 100))
    expected: dict[str, list[float]] = {"mAP": [], "mP@1": [], "mP@5": [], "mP@100": []}
    for vector, label in zip(test.features, test.labels, strict=True):
        if label == 3:
            continue
        order = np.argsort(-(train.features @ vector).numpy(), kind="stable")
        ranks = np.flatnonzero((train.labels == label).numpy()[order])
        expected["mAP"].append(revisitop_ap(ranks, len(ranks)))
        for k in (1, 5, 100):
            expected[f"mP@{k}"].append(revisitop_precision(ranks, k))
    assert found == {
        f"retrieval_{name}": pytest.approx(np.mean(values)) for name, values in expected.items()
    }


def test_by_hand() -> None:
    hits = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0]]).bool()
    found = ranking_metrics(hits, (1, 2, 4))
    assert found["mAP"].tolist() == pytest.approx([1, 1 / 4, (1 + (1 / 2 + 2 / 3) / 2) / 2])
    assert found["mP@2"].tolist() == pytest.approx([1, 1 / 2, 1 / 2])
    assert found["mP@4"].tolist() == pytest.approx([1, 1 / 2, 2 / 3]), "not beyond the last one"


def test_what_cannot_be_ranked_is_refused() -> None:
    rows = vectors(4, 0)
    with pytest.raises(ConfigError, match="ks"):
        rank_images(rows, rows, lambda part: torch.eye(4)[part].bool(), ks=(0,))
    with pytest.raises(DatasetError, match="a right image for every query"):
        rank_images(rows, rows, lambda part: torch.zeros(4, 4)[part].bool())
    train, test = (ClassFeatures(rows, torch.full((4,), label), tuple("ab")) for label in (0, 1))
    with pytest.raises(DatasetError, match="of one class in both"):
        measure_class_retrieval(train, test)
