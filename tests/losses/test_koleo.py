"""The spread of a batch, against DINOv2's numbers and hand-made cases."""

import math

import numpy as np
import pytest
import torch

from owlkit.errors import QueryError
from owlkit.losses import koleo_loss


def test_loss_and_gradient_are_those_of_dinov2(golden):
    folder = golden("05_dino")
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "outputs.npz") as outputs:
        features = torch.tensor(inputs["koleo"]).double()
        distinct = features[2:].clone().requires_grad_()
        loss = koleo_loss(distinct)
        loss.backward()
        assert loss.item() == pytest.approx(outputs["koleo_nodup_loss"].item(), rel=1e-10)
        np.testing.assert_allclose(distinct.grad, outputs["koleo_nodup_grad"], atol=1e-12)
        # In float32 the distance of the two rows of one direction is rounding.
        loss = koleo_loss(features.float())
        assert loss.item() == pytest.approx(outputs["koleo_loss"].item(), rel=1e-2)


def test_duplicates_get_no_gradient_and_spoil_no_other():
    """Two rows are one picture, far from the others, which get 4 / 6 of what they get alone."""
    features = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features[2:, 0] += 5
    features[0, 0] = -5
    features[1] = 3 * features[0]
    others = features[2:].clone().requires_grad_()
    (alone,) = torch.autograd.grad(koleo_loss(others), others)
    features.requires_grad_()
    (found,) = torch.autograd.grad(koleo_loss(features), features)
    assert not found[:2].any()
    torch.testing.assert_close(found[2:], alone * 4 / 6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_collapsed_batch_stays_finite(value):
    features = torch.full((4, 8), value, requires_grad=True)
    loss = koleo_loss(features)
    loss.backward()
    assert loss.isfinite()
    assert torch.equal(features.grad, torch.zeros(4, 8))


def test_opposite_vectors_are_neighbours():
    """The farthest two can be: the cosine is -1, and neither is its own neighbour."""
    found = koleo_loss(torch.tensor([[2.0, 0.0], [-1.0, 0.0]]))
    assert found.item() == pytest.approx(-math.log(2))


def test_autocast_does_not_lower_the_precision():
    features = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    expected = koleo_loss(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(koleo_loss(features), expected)
    assert koleo_loss(features.bfloat16()).dtype == torch.float32


def test_one_vector_has_no_neighbour():
    with pytest.raises(QueryError, match=r"at least 2, found \[1, 8\]"):
        koleo_loss(torch.ones(1, 8))
