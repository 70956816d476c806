"""Image towers and heads as fast as CPUs can run them, when nothing is learned.

Activations of thousands of patches are larger than the caches, and so large that each comes as
fresh memory from the operating system: making one costs as much time as the arithmetic in it.
"""

from typing import Any

import torch
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from owlkit.encoders.fast_linear import quicken_linears
from owlkit.encoders.quick_gelu import slim_quick_gelus
from owlkit.encoders.vision import VisionTower

_MOST_ROWS = 1024


class PiecewiseMlp(Mlp):
    """timm's MLP, some hundreds of rows at a time: the same function of each row."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns [..., O].

        Args:
            input: [..., I].
        """
        forward: Any = super().forward
        rows = input.flatten(0, -2)
        pieces = -(-len(rows) // _MOST_ROWS)
        if pieces <= 1 or not _is_served(input):
            whole: Tensor = forward(input)
            return whole
        output = torch.cat([forward(piece) for piece in rows.chunk(pieces)])
        return output.reshape(*input.shape[:-1], -1)


def quicken_inference(module: nn.Module) -> None:
    """Prepares a model that runs on a CPU and learns nothing.

    Weights and their names stay as they are, outputs the same within rounding. Learning still
    works, in the usual way.

    Args:
        module: Changed in place.
    """
    quicken_linears(module)
    slim_quick_gelus(module)
    for part in module.modules():
        # An MLP of convolutions has its channels elsewhere.
        if type(part) is Mlp and isinstance(part.fc1, nn.Linear):
            part.__class__ = PiecewiseMlp
        elif isinstance(part, VisionTower):
            part.quick_attention = True


def _is_served(input: Tensor) -> bool:
    return (
        input.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )
