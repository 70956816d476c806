"""How much memory the detector's loss needs."""

import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.table import line
from owlkit.losses import DetectionLoss
from owlkit.structures import DetectionTargets

IMAGES, PREDICTIONS, QUERIES, BOXES = 8, 3600, 100, 100


@dataclass(frozen=True)
class MemoryRow:
    """The loss, forward and backward; beside the logits that it is given.

    Attributes:
        path: Name of the comparison.
        settings: Sizes.
        peer: What is compared with what.
        logits: Elements of the logits, B x P x Q.
        largest: Elements of the largest tensor that an operation returned.
        ratio: ``logits / largest``; at least 1 if nothing larger than the logits is made.
        logits_mib: Size of the logits in float32.
        peak_mib: Most that lived at once, gradients included.
        kept_mib: What the forward pass leaves for the backward pass.
    """

    path: str
    settings: str
    peer: str
    logits: int
    largest: int
    ratio: float
    logits_mib: float
    peak_mib: float
    kept_mib: float


class MemoryMeter(TorchDispatchMode):
    """Watches the outputs of operations: the largest in elements, and the bytes that they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.peak = 0
        self._held: dict[int, int] = {}

    @property
    def held(self) -> int:
        """Bytes of outputs that are alive."""
        return sum(self._held.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        output = func(*args, **(kwargs or {}))
        for tensor in _tensors(output):
            self.largest = max(self.largest, tensor.numel())
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._held:
                self._held[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self._held.pop, storage._cdata, None)
        self.peak = max(self.peak, self.held)
        return output


def loss_memory(repeats: int, scratch: Path) -> Iterator[MemoryRow]:
    """3,600 patches, 100 queries and 100 boxes in each of 8 images; nothing here is random."""
    del repeats, scratch
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(IMAGES, PREDICTIONS, QUERIES, generator=generator).sub(5).to(device)
    boxes = torch.rand(IMAGES, PREDICTIONS, 4, generator=generator).to(device)
    classes = torch.randint(QUERIES, (IMAGES, BOXES), generator=generator)
    targets = DetectionTargets(
        boxes=torch.rand(IMAGES, BOXES, 4, generator=generator),
        labels=torch.nn.functional.one_hot(classes, QUERIES).float(),
        box_mask=torch.ones(IMAGES, BOXES, dtype=torch.bool),
        query_mask=torch.ones(IMAGES, QUERIES, dtype=torch.bool),
    ).to(device)
    logits.requires_grad_()
    boxes.requires_grad_()
    meter = MemoryMeter()
    with meter:
        losses = DetectionLoss()(logits, boxes, targets)
    kept = meter.held
    with meter:
        losses.total.backward()
    mib = 2**20
    row = MemoryRow(
        path="loss-memory",
        settings=f"loss of {IMAGES} x {PREDICTIONS} x {QUERIES} logits, {BOXES} boxes each",
        peer="logits against the largest tensor",
        logits=logits.numel(),
        largest=meter.largest,
        ratio=logits.numel() / meter.largest,
        logits_mib=logits.nbytes / mib,
        peak_mib=meter.peak / mib,
        kept_mib=kept / mib,
    )
    print(line(asdict(row)), flush=True)
    yield row


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
