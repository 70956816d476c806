"""Fast linear layers against plain ones in double precision."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from owlkit.encoders import fast_linear
from owlkit.encoders.fast_linear import FastLinear, quicken_linears


def _make(inputs: int, outputs: int, *, bias: bool) -> FastLinear:
    torch.manual_seed(0)
    return FastLinear(inputs, outputs, bias=bias)


def _results(layer: nn.Linear, rows: Tensor, cotangent: Tensor) -> list[Tensor]:
    """Output and gradients of rows and weights, in double precision."""
    rows = rows.clone().requires_grad_()
    output = layer(rows)
    found = torch.autograd.grad(output, [rows, *layer.parameters()], cotangent)
    return [value.double() for value in (output.detach(), *found)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((2, 130, 48), id="many rows: by convolution"),
        pytest.param((3, 5, 48), id="few rows: by torch's product"),
        pytest.param((300, 48), id="no batch axis"),
        pytest.param((0, 7, 48), id="nothing"),
    ],
)
def test_equals_a_plain_layer(shape: tuple[int, ...], bias: bool) -> None:
    fast = _make(48, 20, bias=bias)
    plain = nn.Linear(48, 20, bias=bias).double()
    plain.load_state_dict(fast.state_dict())
    rows, cotangent = torch.randn(*shape), torch.randn(*shape[:-1], 20)
    expected = _results(plain, rows.double(), cotangent.double())
    found = _results(fast, rows, cotangent)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_strided_rows_are_read_in_order() -> None:
    fast = _make(16, 8, bias=True)
    rows = torch.randn(4, 16, 64).mT  # as attention leaves them
    expected = nn.functional.linear(rows, fast.weight, fast.bias)
    torch.testing.assert_close(fast(rows), expected, rtol=1e-5, atol=1e-5)


def test_autocast_decides_the_precision() -> None:
    fast = _make(16, 8, bias=True)
    rows = torch.randn(256, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = fast(rows)
        expected = nn.functional.linear(rows, fast.weight, fast.bias)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)


def test_half_precision_is_rounded_once() -> None:
    fast = _make(48, 20, bias=True).bfloat16()
    rows = torch.randn(256, 48).bfloat16()
    plain = nn.functional.linear(rows.double(), fast.weight.double(), fast.bias.double())
    with torch.no_grad():
        found = fast(rows)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), plain, rtol=2**-8, atol=1e-4)
    torch.testing.assert_close(fast(rows), nn.functional.linear(rows, fast.weight, fast.bias))


@pytest.mark.parametrize("slow", [True, False])
def test_only_plain_layers_change_and_only_where_it_helps(
    monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    class Own(nn.Linear):
        """Somebody's own layer."""

    monkeypatch.setattr(fast_linear, "product_is_slow", lambda: slow)
    module = nn.Sequential(nn.Linear(4, 4), Own(4, 4))
    names = list(module.state_dict())
    quicken_linears(module)
    assert [type(part) for part in module] == [FastLinear if slow else nn.Linear, Own]
    assert list(deepcopy(module).state_dict()) == names
