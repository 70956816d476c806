"""What the machine can do at best, and the work that a path cannot do without.

The quotient is the floor: the seconds that the work takes at the highest rate at which this machine
multiplies large matrices, or reads and writes memory, whichever is longer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clock import seconds

_SIDE = 2048
_COPIED = 2**28  # bytes
_TRIES = 5


@dataclass(frozen=True)
class Work:
    """Work that a path cannot do without.

    Attributes:
        gflop: Multiplications and additions, in 1e9.
        mib: Memory that is read and written at least.
        precision: Of the products, ``"float32"`` or ``"bfloat16"``.
    """

    gflop: float
    mib: float
    precision: str


@dataclass(frozen=True)
class Rates:
    """The best of a few tries.

    Attributes:
        gflops: 1e9 operations a second of a matrix product, by precision.
        gib_s: GiB a second, read plus written, of a large copy.
    """

    gflops: dict[str, float]
    gib_s: float

    def seconds(self, work: Work) -> float:
        """The floor of some work."""
        return max(work.gflop / self.gflops[work.precision], work.mib / 1024 / self.gib_s)

    def __str__(self) -> str:
        products = ", ".join(f"{rate:,.0f} GFLOP/s in {name}" for name, rate in self.gflops.items())
        return f"matrix products {products}; copies {self.gib_s:,.0f} GiB/s"


@cache
def rates() -> Rates:
    """This machine's, measured once a process, with as many threads as torch takes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = _shortest(lambda: target.copy_(source))
    return Rates(
        gflops={name: _product_rate(name, device) for name in ("float32", "bfloat16")},
        gib_s=2 * _COPIED / 2**30 / copy,
    )


def tower_work(folder: Path, precision: str) -> Work:
    """The image tower of a transformers detector on one image of its size.

    Nothing is computed: operations are counted on tensors without contents.

    Args:
        folder: Where transformers has saved it.
        precision: Of weights and products.
    """
    config = transformers.AutoConfig.from_pretrained(folder)
    # Written out, attention is two products that the counter knows.
    with torch.device("meta"):
        model: Any = transformers.AutoModelForZeroShotObjectDetection.from_config(
            config, attn_implementation="eager"
        )
        side = config.vision_config.image_size
        pixels = torch.empty(1, 3, side, side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.image_embedder(pixels)
    tower = model.get_submodule(config.model_type).vision_model
    numbers = sum(weight.numel() for weight in tower.parameters())
    return Work(
        gflop=counter.get_total_flops() / 1e9,
        mib=numbers * getattr(torch, precision).itemsize / 2**20,
        precision=precision,
    )


def _product_rate(precision: str, device: torch.device) -> float:
    """Of the faster of torch's product and, on CPUs, the convolution that is one.

    The two are different libraries; see :mod:`owlkit.encoders.fast_linear`.
    """
    left, right = torch.randn(2, _SIDE, _SIDE, device=device, dtype=getattr(torch, precision))
    ways: list[Callable[[], Tensor]] = [lambda: left @ right]
    if device.type == "cpu":
        pixels = left[None, :, None].permute(0, 3, 1, 2)
        kernel = right.T[:, :, None, None].contiguous()
        ways.append(lambda: F.conv2d(pixels, kernel))
    with torch.inference_mode():
        return 2 * _SIDE**3 / 1e9 / min(map(_shortest, ways))


def _shortest(function: Callable[[], Any]) -> float:
    function()
    return min(seconds(function) for _ in range(_TRIES))
