"""Rows of all processes put together, so that each can be compared with every other.

Shapes: b rows on each process, W processes, B = W b rows in all.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from owlkit.losses.processes import process_count, sum_over_processes


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes of torch.distributed, in the order of their ranks.

    The gradient passes through: each process receives, for its own rows, the sum of what all
    processes' losses want of them. Averaging over processes, as data-parallel training does, then
    gives the gradient of the mean of their losses. All processes must call this together.

    Args:
        rows: Of this process [b, ...]; the shape is the same on all of them.

    Returns:
        [B, ...]; ``rows`` itself where there is one process.
    """
    if process_count() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


def row_positions(rows: Tensor) -> Tensor:
    """Where in :func:`gather_rows` the rows of this process are [b], int64.

    Args:
        rows: Of this process [b, ...].
    """
    first = dist.get_rank() * len(rows) if process_count() > 1 else 0
    return torch.arange(first, first + len(rows), device=rows.device)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        gathered = rows.new_empty(process_count() * len(rows), *rows.shape[1:])
        dist.all_gather(list(gathered.chunk(process_count())), rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = sum_over_processes(gradients[0])
        return total[dist.get_rank() * ctx.count :][: ctx.count]
