"""The moving average against its definition."""

import torch
from torch import nn

from owlkit.engine.ema import WeightAverage


def test_three_updates_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    average = WeightAverage(model, 0.75)
    expected = 1.0
    for value in (2.0, -4.0, 8.0):
        model.weight.data.fill_(value)
        average.update(model)
        expected = 0.75 * expected + 0.25 * value
        assert abs(average.model.weight.item() - expected) < 1e-6
    assert model.weight.item() == 8.0


def test_buffers_are_copied_and_the_twin_does_not_learn() -> None:
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, 0.9)
    model(torch.randn(8, 2) + 5)
    average.update(model)
    assert torch.equal(average.model.running_mean, model.running_mean)
    assert average.model.num_batches_tracked == 1  # an integer, which has no average
    assert not average.model.training
    assert model.training
    assert not average.model.weight.requires_grad
    assert model.weight.requires_grad
