"""Gradient clipping: of the whole batch's gradient, by weight or as one, or of each example's."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, Protocol

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor, nn

from owlkit.config import OptimSection
from owlkit.errors import ConfigError

# Keeps the scale of a gradient of zero finite.
_TINY = 1e-6


class Clipping(Protocol):
    """How the parts of a batch become one clipped gradient.

    The loop calls ``split`` on the batch, then for every part ``backward`` inside
    ``communication`` and ``collect``, and ``finish`` at the end. Each part's loss is weighted by
    its share of the batch.
    """

    def split(self, batch: Any) -> list[Any]:
        """The parts of a batch that pass one after another."""

    def communication(self, *, last: bool) -> AbstractContextManager[Any]:
        """Where a part runs; processes exchange gradients in the backward pass of the last."""

    def collect(self) -> None:
        """Takes the gradient of a part, right after its backward pass."""

    def finish(self) -> Tensor:
        """Leaves the batch's clipped gradient in the parameters; returns the norm before."""


def make_clipping(
    optim: OptimSection, *, task: nn.Module, accelerator: Accelerator, accumulation: int
) -> Clipping:
    """The clipping that a run asks for.

    Args:
        optim: Its kind and norm.
        task: The module that learns, as accelerate has prepared it.
        accelerator: Runs the processes.
        accumulation: Parts of a batch for clipping as a whole.

    Raises:
        ConfigError: If gradients are to be clipped one by one in float16, or with statistics of a
            batch in the way.
    """
    if optim.clip != "per_example":
        kind = PerParameterClipping if optim.clip == "per_parameter" else GlobalClipping
        limit = float("inf") if optim.clip == "none" else optim.clip_norm
        return kind(task, accelerator, limit=limit, parts=accumulation)
    if accelerator.mixed_precision == "fp16":
        raise ConfigError(
            "optim.clip per_example does not go with train.precision float16, whose gradients are "
            "scaled and can overflow one by one; use bfloat16 or float32"
        )
    mixing = [name for name, module in task.named_modules() if _mixes_examples(module)]
    if mixing:
        raise ConfigError(
            f"optim.clip per_example does not go with batch norms ({mixing[0]} and "
            f"{len(mixing) - 1} more), which mix the examples of a batch; use optim.clip global, a "
            "tower without batch norms, or optim.freeze for the tower that has them"
        )
    return PerExampleClipping(task, accelerator, limit=optim.clip_norm)


def _mixes_examples(module: nn.Module) -> bool:
    """Whether a module learns from the statistics of a batch; frozen towers do not."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training


class GlobalClipping:
    """Clips the gradient of the whole batch, over all parts and processes.

    Args:
        task: The prepared module.
        accelerator: Runs the processes.
        limit: Largest norm; infinity only measures.
        parts: Into how many parts a batch is cut, to save memory.
    """

    def __init__(
        self, task: nn.Module, accelerator: Accelerator, *, limit: float, parts: int
    ) -> None:
        self._task = task
        self._accelerator = accelerator
        self._parameters = _learning(task)
        self._limit = limit
        self._parts = parts

    def split(self, batch: Any) -> list[Any]:
        """Parts whose sizes differ by one at most; none is empty."""
        count = min(self._parts, len(batch))
        ends = [len(batch) * index // count for index in range(count + 1)]
        return [batch[start:end] for start, end in pairwise(ends)]

    def communication(self, *, last: bool) -> AbstractContextManager[Any]:
        """Exchanges gradients once a batch."""
        return nullcontext() if last else _silent(self._accelerator, self._task)

    def collect(self) -> None:
        """Gradients add up by themselves."""

    def finish(self) -> Tensor:
        """Clips; in float16, gradients are brought back to scale first."""
        norm: Tensor = self._accelerator.clip_grad_norm_(self._parameters, self._limit)
        return norm


class PerParameterClipping(GlobalClipping):
    """Clips the batch's gradient of each weight tensor by that tensor's own norm, as DINO [0] does.

    A layer with a large gradient then takes nothing from the others. DINO's code waits for the
    device at every tensor; here nothing waits.

    - [0]: Emerging Properties in Self-Supervised Vision Transformers, 2021,
      https://arxiv.org/abs/2104.14294; ``clip_gradients`` in its code
    """

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Clips; returns the norm of the whole gradient before."""
        self._accelerator.unscale_gradients()  # of float16
        gradients = [weight.grad for weight in self._parameters if weight.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        scales = (self._limit / (norms + _TINY)).clamp(max=1.0)
        torch._foreach_mul_(gradients, list(scales.unbind()))
        norm: Tensor = torch.linalg.vector_norm(norms)
        return norm


class PerExampleClipping:
    """Clips the gradient of each example before they are averaged, as OWL-ViT was trained [0].

    One example with an unlucky matching then cannot outvote the others. The published ablation
    (table A5) finds it worth 1 to 5 AP together with losses that are normalised per example.
    Examples pass one at a time, since what has to be clipped is the gradient of one.

    - [0]: Simple Open-Vocabulary Object Detection with Vision Transformers, 2022,
      https://arxiv.org/abs/2205.06230

    Args:
        task: The prepared module; its normalisations must not mix examples.
        accelerator: Runs the processes.
        limit: Largest norm of an example's gradient.
    """

    def __init__(self, task: nn.Module, accelerator: Accelerator, *, limit: float) -> None:
        self._task = task
        self._accelerator = accelerator
        self._parameters = _learning(task)
        self._limit = limit
        self._norms: list[Tensor] = []
        self._sums: list[Tensor | None] = [None] * len(self._parameters)
        self._examples = 1

    def split(self, batch: Any) -> list[Any]:
        """Every example by itself."""
        self._examples = len(batch)
        return [batch[index : index + 1] for index in range(len(batch))]

    def communication(self, *, last: bool) -> AbstractContextManager[Any]:
        """Processes exchange the sum of clipped gradients in :meth:`finish` only."""
        return _silent(self._accelerator, self._task)

    @torch.no_grad()
    def collect(self) -> None:
        """Clips the example's gradient, adds it up, and clears it."""
        gradients = [parameter.grad for parameter in self._parameters]
        norm = torch.nn.utils.get_total_norm([grad for grad in gradients if grad is not None])
        # The loss carried the example's share of the batch, hence so does the limit.
        scale = (self._limit / self._examples / norm).clamp(max=1.0)
        for index, gradient in enumerate(gradients):
            if gradient is None:
                continue
            gradient.mul_(scale)
            so_far = self._sums[index]
            self._sums[index] = gradient if so_far is None else so_far.add_(gradient)
            self._parameters[index].grad = None
        self._norms.append(norm * self._examples)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Averages over processes; returns the mean norm of this process's examples."""
        gradients = [total for total in self._sums if total is not None]
        self._average_over_processes(gradients)
        for parameter, total in zip(self._parameters, self._sums, strict=True):
            parameter.grad = total
        norm = torch.stack(self._norms).mean()
        self._norms, self._sums = [], [None] * len(self._parameters)
        return norm

    def _average_over_processes(self, gradients: Sequence[Tensor]) -> None:
        if self._accelerator.num_processes == 1:
            return
        # One long message instead of hundreds of short ones.
        flat = nn.utils.parameters_to_vector(gradients)
        flat = self._accelerator.reduce(flat, "mean")
        pieces = flat.split([gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))


def _learning(task: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in task.parameters() if parameter.requires_grad]


def _silent(accelerator: Accelerator, task: nn.Module) -> AbstractContextManager[Any]:
    context: AbstractContextManager[Any] = accelerator.no_sync(task)
    return context
