"""What SigLIP's loss keeps for the backward pass, beside the plain form that compares all at once.

Shapes: B pairs, E embedding width.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory import MemoryMeter
from benchmarks.table import line
from owlkit.losses import siglip_loss

PAIRS, WIDTH = 4096, 512

_MIB = 2**20


@dataclass(frozen=True)
class KeptRow:
    """The loss, forward and backward; beside the plain form. Inputs are not counted.

    Attributes:
        path: Name of the comparison.
        settings: Sizes.
        peer: The other form.
        ratio: ``peer_kept_mib / kept_mib``.
        kept_mib: What the forward pass leaves for the backward pass.
        peer_kept_mib: The same of the peer.
        peak_mib: Most that lived at once, gradients included.
        peer_peak_mib: The same of the peer.
        gradient_error: Largest difference from the gradients of the plain form in float64, over the
            largest of each.
        peer_gradient_error: The same of the peer.
    """

    path: str
    settings: str
    peer: str
    ratio: float
    kept_mib: float
    peer_kept_mib: float
    peak_mib: float
    peer_peak_mib: float
    gradient_error: float
    peer_gradient_error: float


def siglip_memory(repeats: int, scratch: Path) -> Iterator[KeptRow]:
    """4,096 pairs of 512 numbers in float32; nothing here is random."""
    del repeats, scratch
    inputs = _inputs()
    ours, kept, peak = _metered(siglip_loss, inputs)
    plain, plain_kept, plain_peak = _metered(_plain_siglip, inputs)
    exact, _, _ = _metered(_plain_siglip, [tensor.double() for tensor in inputs])
    row = KeptRow(
        path="siglip-memory",
        settings=f"{PAIRS} pairs, width {WIDTH}",
        peer="all pairs at once",
        ratio=plain_kept / kept,
        kept_mib=kept / _MIB,
        peer_kept_mib=plain_kept / _MIB,
        peak_mib=peak / _MIB,
        peer_peak_mib=plain_peak / _MIB,
        gradient_error=_difference(ours, exact),
        peer_gradient_error=_difference(plain, exact),
    )
    print(line(asdict(row)), flush=True)
    yield row


def _inputs() -> list[Tensor]:
    """Images, texts [B, E], scale and bias as they are at the start of a training."""
    generator = torch.Generator().manual_seed(0)
    images, texts = F.normalize(torch.randn(2, PAIRS, WIDTH, generator=generator), dim=2)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = (images, texts, torch.tensor(10.0), torch.tensor(-math.log(PAIRS - 1)))
    return [tensor.to(device) for tensor in inputs]


def _metered(
    loss: Callable[..., Tensor], inputs: Sequence[Tensor]
) -> tuple[list[Tensor], int, int]:
    """The gradients, the bytes kept between the passes, and the most that lived at once."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    with MemoryMeter() as meter:
        value = loss(*leaves)
        kept = meter.held
        value.backward()
    return [leaf.grad for leaf in leaves], kept, meter.peak


def _plain_siglip(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    signs = 2 * torch.eye(len(images), dtype=images.dtype, device=images.device) - 1
    return -F.logsigmoid(signs * (scale * images @ texts.mT + bias)).sum() / len(images)


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    return max(
        ((ours - theirs).abs().max() / theirs.abs().max()).item()
        for ours, theirs in zip(found, expected, strict=True)
    )
