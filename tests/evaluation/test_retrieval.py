"""Retrieval recall equals the peer's and a slow count, with ties and several captions an image."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from owlkit.errors import ConfigError, DatasetError
from owlkit.evaluation import recall_at_k, retrieval, retrieval_ranks


def test_recalls_are_those_of_the_peer(golden: Callable[[str], Path]) -> None:
    folder = golden("10_knn_retrieval")
    given_, expected = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    names = ("image_features", "text_features", "text_image_index")
    found = recall_at_k(*(torch.from_numpy(given_[f"retrieval_{name}"]) for name in names))
    assert len(found) == 6
    for k in (1, 5, 10):
        images, texts = (
            expected[f"image_retrieval_recall@{k}"],
            expected[f"text_retrieval_recall@{k}"],
        )
        assert found[f"text_to_image_recall@{k}"] == pytest.approx(float(images), abs=1e-6)
        assert found[f"image_to_text_recall@{k}"] == pytest.approx(float(texts), abs=1e-6)


def slow_ranks(images: Tensor, texts: Tensor, index: Tensor) -> tuple[list[int], list[int]]:
    """Sorts the candidates of one query at a time, and looks for the right one."""
    scores = (texts.double() @ images.double().T).float()
    by_text = [
        row.argsort(descending=True, stable=True).tolist().index(right)
        for row, right in zip(scores, index.tolist(), strict=True)
    ]
    by_image = []
    for image, column in enumerate(scores.T):
        order = column.argsort(descending=True, stable=True)
        by_image.append(int((index[order] == image).nonzero()[0, 0]))
    return by_text, by_image


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of small whole numbers, so that many similarities are exactly equal."""
    images = draw(st.integers(1, 7))
    extra = draw(st.lists(st.integers(0, images - 1), max_size=9))
    index = draw(st.permutations([*range(images), *extra]))
    generator = np.random.default_rng(draw(st.integers(0, 9999)))
    rows = [generator.integers(-1, 2, (count, 2)) for count in (images, len(index))]
    return torch.tensor(rows[0]).float(), torch.tensor(rows[1]).float(), torch.tensor(index)


@given(problems(), st.integers(1, 40))
def test_ranks_are_those_of_a_sort_in_any_blocks(
    problem: tuple[Tensor, Tensor, Tensor], held: int
) -> None:
    expected = slow_ranks(*problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_SIMILARITIES", held)
        ranks = retrieval_ranks(*problem)
    assert (ranks.text_to_image.tolist(), ranks.image_to_text.tolist()) == expected


def test_equal_rows_tie_wherever_they_stand() -> None:
    """Products of equal rows may differ in the last bit by where in a block they are computed."""
    generator = torch.Generator().manual_seed(0)
    image = normalize(torch.randn(1, 77, generator=generator), dim=1)
    images = image.repeat(203, 1)
    texts = normalize(torch.randn(203, 77, generator=generator), dim=1)
    ranks = retrieval_ranks(images, texts, torch.arange(203))
    assert ranks.text_to_image.tolist() == list(range(203))


def test_recalls_and_places_by_hand() -> None:
    images = torch.eye(4)
    # Texts 0 and 1 belong to image 0: the first misses it, the second finds it.
    texts = torch.stack([images[1], images[0], images[1], images[2], images[2] - images[3]])
    ranks = retrieval_ranks(images, texts, torch.tensor([0, 0, 1, 2, 3]))
    assert ranks.text_to_image.tolist() == [1, 0, 0, 0, 3]
    assert ranks.image_to_text.tolist() == [0, 1, 0, 4]
    assert ranks.recalls([1, 3]) == {
        "text_to_image_recall@1": 0.6,
        "text_to_image_recall@3": 0.8,
        "image_to_text_recall@1": 0.5,
        "image_to_text_recall@3": 0.75,
    }
    assert ranks.places() == pytest.approx(
        {
            "text_to_image_mean_rank": 1.8,
            "text_to_image_median_rank": 1.0,
            "image_to_text_mean_rank": 2.25,
            "image_to_text_median_rank": 1.5,
        }
    )


def test_only_blocks_of_the_similarities_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = []
    blocks = retrieval._blocks

    def watch(queries: Tensor, candidates: Tensor) -> Iterator[tuple[slice, Tensor]]:
        for rows, similarity in blocks(queries, candidates):
            largest.append(similarity.numel())
            yield rows, similarity

    monkeypatch.setattr(retrieval, "_blocks", watch)
    monkeypatch.setattr(retrieval, "_SIMILARITIES", 5000)
    embeds = torch.nn.functional.normalize(torch.randn(400, 8), dim=1)
    recall_at_k(embeds, embeds, torch.arange(400))
    assert max(largest) <= 5000
    assert sum(largest) == 2 * 400 * 400


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 0, 2], "found 1 images without, the first at row 1"),
        ([0, 1, 3], "numbers below 3, the images, found 3"),
        ([0, 1], r"integer labels \[3\]"),
        ([0, 1, -1], "found -1"),
    ],
)
def test_texts_that_do_not_fit_the_images(index: list[int], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        recall_at_k(torch.eye(3), torch.eye(3), torch.tensor(index))


def test_embeddings_and_numbers_are_checked() -> None:
    with pytest.raises(DatasetError, match="found 3 and 2"):
        recall_at_k(torch.eye(3), torch.ones(3, 2), torch.arange(3))
    with pytest.raises(DatasetError, match=r"text_embeds: .* 3 rows with NaN"):
        recall_at_k(torch.eye(3), torch.full((3, 3), torch.nan), torch.arange(3))
    with pytest.raises(ConfigError, match="ks: expected numbers >= 1"):
        recall_at_k(torch.eye(3), torch.eye(3), torch.arange(3), ks=(0, 1))
