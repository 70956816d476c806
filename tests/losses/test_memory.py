"""What the losses make and keep: nothing larger than the logits, nothing of all pairs."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from owlkit.losses import DetectionLoss, clip_loss, dino_loss, nt_xent_loss, siglip_loss
from tests.losses.problems import random_problem


class MemoryMeter(TorchDispatchMode):
    """Records the largest output in elements, and the bytes that outputs hold: now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.largest = 0
        self.peak = 0
        self._held: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        }
        output = func(*args, **(kwargs or {}))
        self.operations += 1
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
                storage = tensor.untyped_storage()
                if storage._cdata not in given and storage._cdata not in self._held:
                    self._held[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._held.pop, storage._cdata, None)
        self.peak = max(self.peak, self.held)
        return output

    @property
    def held(self) -> int:
        return sum(self._held.values())


@pytest.mark.parametrize(
    ("counts", "most", "focal_alpha"),
    [
        pytest.param([20, 20], 20, 0.3, id="as many boxes as queries"),
        pytest.param([20, 0], 20, None, id="plain cross-entropy"),
    ],
)
def test_no_tensor_is_larger_than_the_logits(counts, most, focal_alpha):
    problem = random_problem(counts, predictions=90, queries=20, most=most).require_grad()
    loss = DetectionLoss(focal_alpha=focal_alpha)
    limit = problem.logits.numel()
    with MemoryMeter() as forward:
        losses = loss(*problem, objectness=torch.randn(2, 90))
    with MemoryMeter() as backward:
        losses.total.backward()
    assert 0 < forward.largest <= limit
    assert 0 < backward.largest <= limit


def test_few_tensors_of_the_size_of_the_logits_live_at_once():
    """7 at most while matching as many boxes as queries; 2 are kept for the backward pass."""
    problem = random_problem([20], predictions=2000, queries=20).require_grad()
    unit = problem.logits.nbytes
    with MemoryMeter() as forward:
        losses = DetectionLoss()(*problem)
    with MemoryMeter() as backward:
        losses.total.backward()
    assert forward.peak < 7.5 * unit
    assert forward.held < 2.5 * unit
    assert backward.peak < 4.5 * unit


PAIRS = 1024


def plain_siglip(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    signs = 2 * torch.eye(len(images)) - 1
    return -F.logsigmoid(signs * (scale * images @ texts.mT + bias)).sum() / len(images)


def metered(loss: Callable[..., Tensor], count: int) -> tuple[int, MemoryMeter]:
    """Bytes kept for the backward pass, inputs not counted, and the meter of both passes."""
    generator = torch.Generator().manual_seed(0)
    images, texts = F.normalize(torch.randn(2, count, 16, generator=generator), dim=2)
    leaves = [images, texts, torch.tensor(10.0), torch.tensor(-7.0)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    with MemoryMeter() as meter:
        value = loss(*leaves)
        kept = meter.held
        value.backward()
    return kept, meter


def clip_without_bias(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return clip_loss(images, texts, scale)


def nt_xent_of_views(first: Tensor, second: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return nt_xent_loss(first, second)


def test_siglip_keeps_a_small_part_of_the_plain_form():
    kept_by_plain, _ = metered(plain_siglip, PAIRS)
    kept, _ = metered(siglip_loss, PAIRS)
    assert kept_by_plain > PAIRS * PAIRS * 4
    assert kept < kept_by_plain / 20


@pytest.mark.parametrize(
    ("loss", "columns"), [(siglip_loss, 1), (clip_without_bias, 1), (nt_xent_of_views, 2)]
)
def test_memory_does_not_grow_with_the_square_of_the_batch(loss, columns):
    """Twice the pairs: about twice the bytes, kept and at once; four times in the plain form."""
    kept, once = metered(loss, PAIRS)
    kept_twice, twice = metered(loss, 2 * PAIRS)
    assert kept_twice < 2.2 * kept
    assert twice.peak < 2.2 * once.peak
    assert once.largest <= 256 * columns * PAIRS
    assert twice.largest <= 256 * columns * 2 * PAIRS


def test_nothing_of_all_pairs_of_views_is_made():
    """No tensor is larger than the logits of all views; one of that size is kept, 3 live at once.

    Ten views of 4 images, 2 of them global.
    """
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(40, 512, generator=generator).requires_grad_()
    probs = torch.rand(8, 512, generator=generator)
    with MemoryMeter() as meter:
        loss = dino_loss(student, probs)
        kept = meter.held
        loss.backward()
    assert meter.largest == student.numel()
    assert kept < 1.4 * student.nbytes
    assert meter.peak < 3.4 * student.nbytes
