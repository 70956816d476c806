"""Nearest neighbours vote as DINO's do, however the rows are cut."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from owlkit.errors import ConfigError, DatasetError
from owlkit.evaluation import knn, knn_accuracy, knn_votes
from owlkit.evaluation.knn import knn_probe, knn_sweep

Arrays = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def peer(golden: Callable[[str], Path]) -> Arrays:
    folder = golden("10_knn_retrieval")
    files = [np.load(folder / f"{name}.npz") for name in ("inputs", "outputs")]
    return {key: torch.from_numpy(file[key]) for file in files for key in file.files}


def rows_of(peer: Arrays) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        peer["knn_train_features"],
        peer["knn_train_labels"],
        peer["knn_test_features"],
        peer["knn_test_labels"],
    )


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("k", [1, 5, 10, 20, 100, 200])
def test_accuracy_is_that_of_the_peer(peer: Arrays, k: int, temperature: float) -> None:
    top1, top5 = knn_accuracy(*rows_of(peer), k=k, temperature=temperature)
    name = f"knn_k{k}_T{temperature}"
    assert 100 * top1 == pytest.approx(float(peer[f"{name}_top1"]), abs=1e-4)
    if k > 5:  # for fewer the peer fills up the five best classes in no particular order
        assert 100 * top5 == pytest.approx(float(peer[f"{name}_top5"]), abs=1e-4)


@pytest.mark.parametrize("k", [20, 200])
def test_votes_are_those_of_the_peer(peer: Arrays, k: int) -> None:
    train, labels, test, _ = rows_of(peer)
    votes = knn_votes(train, labels, test, k=k)
    expected = peer[f"knn_k{k}_T0.07_votes"]
    shares = expected / expected.sum(dim=1, keepdim=True)
    torch.testing.assert_close(votes.double(), shares, rtol=1e-4, atol=1e-12)
    assert torch.equal(votes.argmax(dim=1), peer[f"knn_k{k}_T0.07_pred"])


def test_several_numbers_of_neighbours_at_once(peer: Arrays) -> None:
    found = knn_sweep(*rows_of(peer), ks=(200, 5, 20))
    assert found == {k: knn_probe(*rows_of(peer), k=k) for k in (200, 5, 20)}


def test_chunks_change_nothing(peer: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels, test, _ = rows_of(peer)
    whole = knn_votes(train, labels, test)
    monkeypatch.setattr(knn, "_SIMILARITIES", 7 * len(train))
    torch.testing.assert_close(knn_votes(train, labels, test), whole)
    torch.testing.assert_close(knn_votes(train, labels, test[:1]), whole[:1])


def test_a_very_low_temperature_is_the_nearest_neighbour(peer: Arrays) -> None:
    train, labels, test, _ = rows_of(peer)
    votes = knn_votes(train, labels, test, k=20, temperature=1e-5)
    assert votes.isfinite().all()
    nearest = labels[(test @ train.T).argmax(dim=1)]
    assert torch.equal(votes.argmax(dim=1), nearest)


def test_small_case_counted_by_hand() -> None:
    train = normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]]), dim=1)
    labels = torch.tensor([1, 1, 0, 2])
    test = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    votes = knn_votes(train, labels, test, k=2, temperature=1.0, classes=4)
    assert votes.shape == (2, 4)
    assert votes[0].tolist() == pytest.approx([0, 1, 0, 0])
    near, far = float(torch.tensor(1.0).exp()), float(train[1, 1].exp())
    expected = [near / (near + far), far / (near + far), 0, 0]
    assert votes[1].tolist() == pytest.approx(expected)
    # A class that no training row has is never among the found.
    found = knn.knn_probe(train, labels, test, torch.tensor([1, 7]), k=2)
    assert (found.top1, found.top5, found.mean_per_class_recall) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k": 0}, "k: expected 1 to 600"),
        ({"k": 601}, "found 601"),
        ({"temperature": 0.0}, "temperature: expected a number above 0"),
    ],
)
def test_settings_out_of_range(peer: Arrays, setting: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        knn_accuracy(*rows_of(peer), **setting)  # type: ignore[arg-type]


def test_rows_that_do_not_fit(peer: Arrays) -> None:
    train, labels, test, test_labels = rows_of(peer)
    with pytest.raises(DatasetError, match="equal width, found 24 and 23"):
        knn_accuracy(train, labels, test[:, 1:], test_labels)
    with pytest.raises(DatasetError, match=r"train: expected integer labels \[600\]"):
        knn_accuracy(train, labels[1:], test, test_labels)
    broken = test.clone()
    broken[3, 5] = torch.nan
    with pytest.raises(DatasetError, match=r"test: .* 1 rows with NaN.* row 3"):
        knn_accuracy(train, labels, broken, test_labels)
