"""NT-Xent against Algorithm 1 of SimCLR, written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from owlkit.errors import ConfigError, QueryError
from owlkit.losses import nt_xent_loss


def random_views(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    views = torch.randn(2, count, 5, generator=generator, dtype=torch.float64)
    return list(F.normalize(views, dim=2))


def slow_nt_xent(first: Tensor, second: Tensor, temperature: float) -> float:
    """Views of one image follow each other, as in the paper; there k counts from 1."""
    views = [view for pair in zip(first, second, strict=True) for view in pair]

    def loss(i: int, j: int) -> float:
        weights = [
            math.exp(float(views[i] @ view) / temperature) for k, view in enumerate(views) if k != i
        ]
        return -math.log(math.exp(float(views[i] @ views[j]) / temperature) / sum(weights))

    pairs = range(0, len(views), 2)
    return sum(loss(k, k + 1) + loss(k + 1, k) for k in pairs) / len(views)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("count", [2, 7])
def test_loss_is_that_of_algorithm_1(temperature, count):
    views = random_views(count)
    loss = nt_xent_loss(*views, temperature=temperature)
    assert loss.item() == pytest.approx(slow_nt_xent(*views, temperature), rel=1e-12)


def test_chunks_have_the_gradients_of_the_whole_table():
    """600 views are more than two chunks; no view may meet itself in any of them."""
    first, second = (side.requires_grad_() for side in random_views(300))
    loss = nt_xent_loss(first, second, temperature=0.2)
    views = torch.cat([first, second])
    logits = (views @ views.mT / 0.2).masked_fill(torch.eye(600, dtype=torch.bool), -torch.inf)
    expected = F.cross_entropy(logits, torch.arange(600).roll(300))
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(value, [first, second]) for value in (loss, expected))
    torch.testing.assert_close(found, wanted)


def test_gradient_is_that_of_its_slope():
    leaves = [side.requires_grad_() for side in random_views(5)]
    assert torch.autograd.gradcheck(nt_xent_loss, leaves)


def test_one_image_has_nothing_to_learn_from():
    first, second = (side.requires_grad_() for side in random_views(1))
    loss = nt_xent_loss(first, second)
    loss.backward()
    assert loss.item() == 0
    assert not first.grad.any()


def test_autocast_does_not_lower_the_precision():
    views = [side.float() for side in random_views(9)]
    expected = nt_xent_loss(*views)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nt_xent_loss(*views), expected)


def test_bad_temperature_and_shapes_are_named():
    eye = torch.eye(3)
    with pytest.raises(ConfigError, match="above 0, found 0"):
        nt_xent_loss(eye, eye, temperature=0)
    with pytest.raises(QueryError, match=r"\[3, 3\] and \[3, 2\]"):
        nt_xent_loss(eye, eye[:, :2])
