"""What the loop asks of a task and of its batches."""

from typing import Literal, Protocol, Self

import torch
from torch import nn

NO_TOKENIZER = (
    "model.text.tokenizer: expected the folder of a tokenizer, found none; training on texts needs "
    "one (tools/train_tokenizer.py makes one from captions)"
)


class Batch(Protocol):
    """Examples that are learned from together."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Where each example comes from, for messages."""

    @property
    def images_read(self) -> int:
        """Image files that were opened, unreadable ones included."""

    @property
    def corrupt(self) -> tuple[str, ...]:
        """Files that could not be read and were replaced."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> Self: ...

    def to(self, device: torch.device, *, non_blocking: bool) -> Self:
        """The batch on another device."""


Hook = Literal["begin_step", "finish_step", "check_means"]
"""What a task may do around its steps; see :class:`~owlkit.engine.Trainer`."""


def call_hook(task: nn.Module, name: Hook, *arguments: object) -> None:
    """Calls a task's method of that name, if it has one."""
    hook = getattr(task, name, None)
    if hook is not None:
        hook(*arguments)
