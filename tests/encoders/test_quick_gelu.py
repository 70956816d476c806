"""The lean quick GELU against the definition in double precision."""

import pytest
import timm
import torch
from timm.layers.activations import QuickGELU
from torch import nn
from transformers.activations import QuickGELUActivation

from owlkit.encoders.quick_gelu import slim_quick_gelus


@pytest.mark.parametrize("kind", [QuickGELU, QuickGELUActivation])
def test_value_and_gradient_follow_the_definition(kind: type[nn.Module]) -> None:
    holder = nn.Sequential(kind())
    slim_quick_gelus(holder)
    assert type(holder[0]) is not kind
    assert isinstance(holder[0], kind)
    values = torch.tensor([-200.0, -60.0, -3.0, -0.7, 0.0, 1e-4, 2.0, 50.0], requires_grad=True)
    exact = values.detach().double().requires_grad_()
    cotangent = torch.linspace(-1, 2, len(values))
    found, expected = holder(values), exact * torch.sigmoid(1.702 * exact)
    (slope,) = torch.autograd.grad(found, values, cotangent)
    (expected_slope,) = torch.autograd.grad(expected, exact, cotangent.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slope.double(), expected_slope, rtol=1e-6, atol=1e-6)


def test_bfloat16_is_the_plain_form_to_the_bit() -> None:
    torch.manual_seed(0)
    values = (3 * torch.randn(4096)).bfloat16().requires_grad_()
    lean = nn.Sequential(QuickGELU())
    slim_quick_gelus(lean)
    found, plain = lean(values), QuickGELU()(values)
    assert torch.equal(found, plain)
    exact = values.detach().double().requires_grad_()
    (slope,) = torch.autograd.grad((exact * torch.sigmoid(1.702 * exact)).sum(), exact)
    errors = [
        (torch.autograd.grad(output.sum(), values)[0] - slope).abs().max()
        for output in (found, plain)
    ]
    assert errors[0] <= errors[1]


def test_a_tower_keeps_its_numbers() -> None:
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 32}
    tower = timm.create_model("vit_base_patch16_clip_quickgelu_224", **sizes)
    images = torch.randn(2, 3, 32, 32)
    expected = torch.autograd.grad(tower(images).sum(), list(tower.parameters()))
    slim_quick_gelus(tower)
    found = torch.autograd.grad(tower(images).sum(), list(tower.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
