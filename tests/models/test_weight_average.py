"""Moving averages of weights against a loop."""

import pytest
import torch
from torch import nn

from owlkit.errors import ConfigError
from owlkit.models.weight_average import move_weights


def _make(*extra: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), *extra)


def test_average_follows_the_model() -> None:
    average, model = _make(), _make()
    expected = {name: weight.detach().clone() for name, weight in average.named_parameters()}
    for step in range(3):
        momentum = 0.9 + 0.04 * step
        for name, weight in model.named_parameters():
            expected[name] = momentum * expected[name] + (1 - momentum) * weight.detach()
        move_weights(average, model, momentum)
    for name, weight in average.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name])
        assert weight.grad is None


def test_running_statistics_stay_its_own() -> None:
    average, model = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    model(torch.randn(8, 3))
    move_weights(average, model, 0.5)
    assert average.running_mean is not None
    assert not average.running_mean.any()


def test_another_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"found 2\.bias, 2\.weight in one alone"):
        move_weights(_make(), _make(nn.Linear(3, 2)), 0.9)
