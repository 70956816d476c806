"""Numbers that all processes of torch.distributed agree on; one process needs no group.

No gradient passes through these: :func:`owlkit.losses.gather.gather_rows` is for that.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def process_count() -> int:
    """How many processes of torch.distributed work together, 1 where there is no group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of the processes' values [...]; ``values`` is left as it is.

    All processes must call this together, with one shape.
    """
    if process_count() == 1:
        return values
    total = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def max_over_processes(values: Tensor) -> Tensor:
    """The largest of the processes' values, each place by itself [...]; otherwise as the sum."""
    if process_count() == 1:
        return values
    highest = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    return highest
