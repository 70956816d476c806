"""BYOL's loss, by hand."""

import math

import pytest
import torch

from owlkit.errors import QueryError
from owlkit.losses import byol_loss


def test_angles_give_2_less_2_cosines():
    """60, 0 and 180 degrees, at any length: 2 - 1, 0 and 4."""
    online = torch.tensor([[3.0, 0.0], [0.1, 0.1], [0.0, 7.0]], requires_grad=True)
    target = torch.tensor([[1.0, math.sqrt(3)], [5.0, 5.0], [0.0, -2.0]], requires_grad=True)
    loss = byol_loss(online, target)
    loss.backward()
    assert loss.item() == pytest.approx(5 / 3)
    assert target.grad is None
    # d(2 - 2 cos a)/da = 2 sin a across a vector of length 3, towards the target.
    assert online.grad[0].tolist() == pytest.approx([0, -2 * math.sqrt(3) / 2 / 3 / 3], abs=1e-6)
    assert online.grad[1:].abs().max() < 1e-6


def test_half_precision_is_widened():
    rows = torch.tensor([[1.0, 0.01]]).bfloat16()
    assert byol_loss(rows, rows).item() == 0
    assert byol_loss(rows, rows).dtype == torch.float32


def test_different_shapes_are_named():
    with pytest.raises(QueryError, match=r"\[2, 3\] and \[2, 4\]"):
        byol_loss(torch.ones(2, 3), torch.ones(2, 4))
