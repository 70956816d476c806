"""CLIP's activation: the same function in fewer passes over memory.

``x * sigmoid(1.702 x)`` [0], written out, keeps two tensors for the backward pass and makes five
there, each as large as the widest activations of a transformer. The function is ``silu(1.702 x) /
1.702``, so its slope at x is the slope of silu at ``1.702 x``: one tensor is kept, one is made.

- [0]: Gaussian Error Linear Units, 2016, https://arxiv.org/abs/1606.08415
"""

from typing import Any

import torch
from timm.layers.activations import QuickGELU
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import QuickGELUActivation

_SLOPE = 1.702


class _LeanQuickGELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        scaled = input * _SLOPE
        ctx.save_for_backward(scaled)
        return scaled.sigmoid().mul_(input)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (scaled,) = ctx.saved_tensors
        slope: Tensor = torch.ops.aten.silu_backward(gradient, scaled)
        return slope


class _Lean(nn.Module):
    """An activation without weights, put in the place of another library's."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns ``input * sigmoid(1.702 * input)`` [...]; gradients have no gradients."""
        if torch.compiler.is_compiling():  # what compiles fuses the plain form by itself
            return input * torch.sigmoid(_SLOPE * input)
        result: Tensor = _LeanQuickGELU.apply(input)
        return result


class LeanQuickGELU(_Lean, QuickGELU):
    """timm's."""


class LeanQuickGELUActivation(_Lean, QuickGELUActivation):
    """transformers'."""


_LEAN: dict[type, type] = {
    QuickGELU: LeanQuickGELU,
    QuickGELUActivation: LeanQuickGELUActivation,
}


def slim_quick_gelus(module: nn.Module) -> None:
    """Turns the quick GELUs of timm and transformers inside a module into lean ones.

    Results are the same, gradients the same within rounding.

    Args:
        module: Changed in place.
    """
    for part in module.modules():
        part.__class__ = _LEAN.get(type(part), type(part))
