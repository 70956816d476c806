"""The loss makes nothing larger than the logits, and few tensors of their size."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from owlkit.losses import DetectionLoss
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
