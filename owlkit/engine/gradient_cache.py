"""Exact accumulation for losses that couple the examples of a batch.

A contrastive loss of a part is not a part of the contrastive loss: every example needs all the
others. So each batch passes twice, as in GradCache [0]. The first pass embeds part after part and
keeps nothing but the embeddings; one loss over all of them gives its gradient with respect to each
embedding and to the loss's own parameters, such as a temperature. The second pass embeds each part
again, from the same random state, and sends those gradients through the towers. What comes out is
the gradient of the whole batch, with dropout and the like; memory is that of a part.

Batch norms see a part at a time, so with them a batch in parts is not the same function as a whole
one; the gradient is exact for the function in parts. Their running statistics are updated once.

- [0]: Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021,
  https://arxiv.org/abs/2101.06983

Shapes: B examples in a batch, b in a part.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from owlkit.config import OptimSection, TrainSection
from owlkit.engine.random_state import TorchRandomState
from owlkit.errors import ConfigError

Embeddings = dict[str, Tensor]
"""What a loss compares, by name; one row per example each."""


class Part(Protocol):
    """Examples of a batch: a slice of it, or all."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> Self: ...


PartType = TypeVar("PartType", bound=Part)


@dataclass(frozen=True)
class Replay:
    """What the second pass over a part has to know of the first pass over the whole.

    Attributes:
        gradients: Of the loss with respect to the embeddings, one row per example.
        parameter_gradients: Of the loss with respect to its own parameters, in their order.
        terms: The loss of the whole batch and its terms, scalars.
        states: The random state before each part, by the number of its first example.
        examples: B, those of the whole batch.
        start: Number of the first example.
    """

    gradients: Embeddings
    parameter_gradients: tuple[Tensor, ...]
    terms: Mapping[str, Tensor]
    states: Mapping[int, TorchRandomState]
    examples: int
    start: int = 0

    def __getitem__(self, index: slice) -> "Replay":
        """The same for a slice of the examples."""
        gradients = {name: gradient[index] for name, gradient in self.gradients.items()}
        start = index.indices(self.examples - self.start)[0]
        return replace(self, gradients=gradients, start=self.start + start)


def first_pass(
    batch: PartType,
    *,
    parts: int,
    module: nn.Module,
    embed: Callable[[PartType], Embeddings],
    compare: Callable[[Embeddings], Mapping[str, Tensor]],
    parameters: Sequence[nn.Parameter],
) -> Replay:
    """Embeds all parts of a batch without gradient and differentiates the one loss over them.

    In a distributed run all processes call this, each with its share of the batch.

    Args:
        batch: B examples of this process.
        parts: Number of parts of equal size.
        module: What embeds.
        embed: Makes the embeddings of a part.
        compare: Makes ``loss`` and other terms, scalars, from the embeddings of all B examples.
        parameters: What ``compare`` learns.

    Returns:
        What :func:`second_pass` needs; give it each part's slice.
    """
    device = next(module.parameters()).device
    size = len(batch) // parts
    states: dict[int, TorchRandomState] = {}
    pieces: list[Embeddings] = []
    with torch.no_grad(), _statistics_untouched(module):
        for start in range(0, len(batch), size):
            states[start] = TorchRandomState.now(device)
            pieces.append(embed(batch[start : start + size]))
    leaves = {
        name: torch.cat([piece[name] for piece in pieces]).requires_grad_() for name in pieces[0]
    }
    # Under autocast the matrix products of the backward pass would be rounded, too.
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        terms = compare(leaves)
        gradients = torch.autograd.grad(terms["loss"], [*leaves.values(), *parameters])
    return Replay(
        gradients=dict(zip(leaves, gradients[: len(leaves)], strict=True)),
        parameter_gradients=gradients[len(leaves) :],
        terms={name: term.detach() for name, term in terms.items()},
        states=states,
        examples=len(batch),
    )


def second_pass(
    part: PartType,
    replay: Replay,
    *,
    module: nn.Module,
    embed: Callable[[PartType], Embeddings],
    parameters: Sequence[nn.Parameter],
) -> dict[str, Tensor]:
    """Embeds a part again, with gradient.

    Args:
        part: b examples of the batch that :func:`first_pass` took.
        replay: Their slice of what it returned.
        module: What embeds.
        embed: As in the first pass.
        parameters: As in the first pass.

    Returns:
        The terms of the whole batch. The gradient of ``loss``, weighted by b / B and summed over
        all parts, is that of the whole batch.
    """
    replay.states[replay.start].restore(next(module.parameters()).device)
    embeddings = embed(part)
    inner = torch.stack(
        [(embeddings[name] * gradient).sum() for name, gradient in replay.gradients.items()]
    ).sum()
    # The caller's weights shrink the parts' own sums, but add up to one for what all parts share.
    surrogate = inner * (replay.examples / len(part))
    for parameter, gradient in zip(parameters, replay.parameter_gradients, strict=True):
        surrogate = surrogate + (parameter * gradient).sum()
    loss = replay.terms["loss"] + (surrogate - surrogate.detach())
    return {**replay.terms, "loss": loss}


def check_accumulation(task: nn.Module, *, optim: OptimSection, train: TrainSection) -> None:
    """Makes sure that a batch is not cut into parts behind the back of a loss that couples them.

    Args:
        task: Has an attribute ``accumulation`` if its loss couples the examples of a batch.
        optim: Its clipping may ask for single examples.
        train: Its accumulation cuts batches into parts.

    Raises:
        ConfigError: If the task does not expect those parts.
    """
    expected = getattr(task, "accumulation", None)
    if expected is None:
        return
    if optim.clip == "per_example":
        raise ConfigError(
            "optim.clip per_example does not go with a loss that compares the examples of a batch "
            "with one another; use optim.clip global"
        )
    if expected != train.accumulation:
        raise ConfigError(
            f"train.accumulation: expected {expected}, the number of parts that the task prepares, "
            f"found {train.accumulation}"
        )


@contextmanager
def _statistics_untouched(module: nn.Module) -> Iterator[None]:
    """Lets batch norms normalise as in training without taking note of what they see."""
    norms = [
        norm
        for norm in module.modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm)
        and norm.training
        and norm.track_running_stats
    ]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
