"""The triplet loss against a slow loop, and batches without negatives."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from owlkit.errors import ConfigError, QueryError
from owlkit.losses import triplet_loss

MINING = ["hard", "semi_hard", "all"]


def random_pairs(count: int = 9, *, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images, other = torch.randn(2, count, 5, generator=generator, dtype=torch.float64)
    return F.normalize(images, dim=1), F.normalize(images + noise * other, dim=1)


def slow_triplet(
    images: Tensor, texts: Tensor, margin: float, mining: str, identities: list[int]
) -> float:
    losses = []
    for anchors, others in ((images, texts), (texts, images)):
        for i, anchor in enumerate(anchors):
            positive = float(anchor @ others[i])
            negatives = [
                float(anchor @ others[j])
                for j in range(len(others))
                if identities[i] != identities[j]
            ]
            if mining == "semi_hard":
                negatives = [similarity for similarity in negatives if similarity < positive]
            if mining != "all":
                negatives = sorted(negatives)[-1:]
            terms = [max(0.0, margin + similarity - positive) for similarity in negatives]
            losses.append(sum(terms) / len(terms) if terms else 0.0)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize("identities", [list(range(9)), [0, 1, 2, 0, 1, 2, 3, 0, 4]])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_loss_is_that_of_a_slow_loop(mining, identities, margin):
    images, texts = random_pairs()
    given = torch.tensor(identities)
    loss = triplet_loss(images, texts, margin=margin, mining=mining, identities=given)
    expected = slow_triplet(images, texts, margin, mining, identities)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert expected > 0 or (margin, mining) == (0.0, "semi_hard")


@pytest.mark.parametrize("mining", MINING)
def test_gradient_is_that_of_its_slope(mining):
    leaves = [side.requires_grad_() for side in random_pairs()]
    given = torch.tensor([0, 1, 2, 0, 1, 2, 3, 0, 4])
    assert torch.autograd.gradcheck(
        lambda *args: triplet_loss(*args, mining=mining, identities=given), leaves
    )


@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize("count", [1, 3])
def test_without_negatives_the_loss_is_0_and_has_a_gradient_of_0(mining, count):
    images, texts = (side.requires_grad_() for side in random_pairs(count))
    loss = triplet_loss(images, texts, mining=mining, identities=torch.full((count,), 5))
    loss.backward()
    assert loss.item() == 0
    assert not images.grad.any()
    assert not texts.grad.any()


def test_semi_hard_leaves_out_negatives_that_are_more_similar_than_the_positive():
    """Every negative is nearer than its pair: nothing is left to learn from."""
    eye = torch.eye(2)
    assert triplet_loss(eye, eye.flip(0), mining="hard").item() == pytest.approx(1.2)
    assert triplet_loss(eye, eye.flip(0), mining="semi_hard").item() == 0


@pytest.mark.parametrize("mining", MINING)
def test_autocast_does_not_lower_the_precision(mining):
    images, texts = (side.float() for side in random_pairs())
    expected = triplet_loss(images, texts, mining=mining)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(triplet_loss(images, texts, mining=mining), expected)


def test_bad_settings_and_shapes_are_named():
    eye = torch.eye(3)
    with pytest.raises(ConfigError, match="found 'soft'"):
        triplet_loss(eye, eye, mining="soft")
    with pytest.raises(ConfigError, match="at least 0, found -1"):
        triplet_loss(eye, eye, margin=-1)
    with pytest.raises(QueryError, match=r"\[3, 3\] and \[2, 3\]"):
        triplet_loss(eye, eye[:2])
    with pytest.raises(QueryError, match=r"\[3\], found \[2\]"):
        triplet_loss(eye, eye, identities=torch.arange(2))
