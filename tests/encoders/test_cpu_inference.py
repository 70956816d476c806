"""Models prepared for inference against the same models as they were."""

from copy import deepcopy

import pytest
import torch
from timm.layers import Mlp
from torch import nn

from owlkit.encoders import cpu_inference, fast_linear
from owlkit.encoders.cpu_inference import PiecewiseMlp, quicken_inference


@pytest.fixture(autouse=True)
def slow_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every processor takes the way of those it is made for, and a few rows are many."""
    monkeypatch.setattr(fast_linear, "product_is_slow", lambda: True)
    monkeypatch.setattr(fast_linear, "_FEWEST_ROWS", 2)
    monkeypatch.setattr(cpu_inference, "_MOST_ROWS", 8)


@pytest.mark.parametrize("shape", [(2, 5, 7, 12), (3, 12), (0, 12), (9, 12)], ids=str)
@torch.no_grad()
def test_pieces_make_the_whole(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mlp = Mlp(12, 24, 6, norm_layer=nn.LayerNorm).eval()
    expected = deepcopy(mlp).double()
    quicken_inference(mlp)
    assert type(mlp) is PiecewiseMlp
    input = torch.randn(shape)
    found = mlp(input)
    torch.testing.assert_close(found.double(), expected(input.double()), rtol=1e-5, atol=1e-6)


def test_it_still_learns() -> None:
    torch.manual_seed(0)
    mlp = Mlp(12, 24)
    plain = deepcopy(mlp)
    quicken_inference(mlp)
    input = torch.randn(30, 12)
    gradients = [
        torch.autograd.grad(model(input).square().sum(), list(model.parameters()))
        for model in (mlp, plain)
    ]
    torch.testing.assert_close(*gradients)


def test_convolutions_and_names_stay_as_they_are() -> None:
    module = nn.ModuleList([Mlp(4, 8), Mlp(4, 8, use_conv=True)])
    names = list(module.state_dict())
    quicken_inference(module)
    assert [type(part) for part in module] == [PiecewiseMlp, Mlp]
    assert list(deepcopy(module).state_dict()) == names
