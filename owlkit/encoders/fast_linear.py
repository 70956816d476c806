"""Linear layers at the full rate of processors on which torch's own matrix product is slow.

Torch multiplies float32 matrices on x86 by MKL, which uses half the width of the vector units on
processors that are not Intel's. Torch's convolutions go through oneDNN, which uses all of it, and a
convolution of 1 x 1 pixel is a matrix product. On an AMD EPYC with AVX-512 the products of a vision
transformer run at 1.8 to 2.3 times the rate, forward and backward.

Sums are added up in another order, with rounding errors of twice the size: still those of float32.
After twelve blocks of random weights a detector's logits have moved by 1e-5 at most. In bfloat16
torch takes oneDNN by itself, but the convolution adds the bias on the way, which saves a tenth;
that is for inference only, so that training in bfloat16 stays torch's own.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEWEST_ROWS = 128
"""Fewer rows gain nothing: such products wait for the weights to arrive from memory."""


class FastLinear(nn.Linear):
    """A linear layer with the weights, names and results of ``nn.Linear``, within rounding.

    Shapes: N rows, I and O input and output width.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Returns [..., O].

        Args:
            input: [..., I].
        """
        rows = input.numel() // self.in_features
        if not _is_served(input) or rows < _FEWEST_ROWS:
            return super().forward(input)
        output = matrix_product(input.reshape(rows, -1), self.weight, self.bias)
        return output.reshape(*input.shape[:-1], self.out_features)


def matrix_product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``rows weight^T + bias`` by a convolution [N, O].

    Args:
        rows: [N, I] on the CPU.
        weight: [O, I].
        bias: [O].
    """
    # Rows as pixels of one picture whose channels lie together: no number moves. They lie in its
    # width: with some numbers of rows in its height, the weights' gradient takes six times as long.
    pixels = rows.reshape(1, 1, len(rows), -1).permute(0, 3, 1, 2)
    output = F.conv2d(pixels, weight[:, :, None, None], bias)
    return output.permute(0, 2, 3, 1).reshape(len(rows), -1)


def quicken_linears(module: nn.Module) -> None:
    """Turns the plain linear layers inside a module into fast ones, where that gains anything.

    Weights and their names stay as they are. Nothing happens on other processors.

    Args:
        module: Changed in place.
    """
    if not product_is_slow():
        return
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = FastLinear


def _is_served(input: Tensor) -> bool:
    """Whether the convolution is the faster way, and nobody is looking at the graph."""
    half = input.dtype == torch.bfloat16 and not torch.is_grad_enabled()
    return (
        input.device.type == "cpu"
        and (half or input.dtype == torch.float32)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


@cache
def product_is_slow() -> bool:
    """Whether this is an x86 processor with AVX-512, not of Intel's, and torch is built for it."""
    libraries: Any = (torch.backends.mkl, torch.backends.mkldnn)
    if not all(library.is_available() for library in libraries):
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "AuthenticAMD" in described
