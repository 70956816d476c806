"""Sinkhorn-Knopp: probabilities that use every prototype equally often.

Shapes: n rows on each process (not necessarily equally many), K prototypes.
"""

import torch
from torch import Tensor

from owlkit.errors import ConfigError, QueryError
from owlkit.losses.processes import max_over_processes, sum_over_processes


@torch.no_grad()
def sinkhorn_knopp(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Assigns rows to prototypes so that all prototypes get about equally much.

    As DINOv2 [0] does for its teacher, after SwAV [1]: ``exp(logits / temperature)`` is scaled, in
    turn, so that each prototype has an equal share of the rows of all processes, and so that each
    row sums to 1. Logarithms are what is kept, so that no logit and no temperature overflows, and
    no row or prototype is lost because another is far larger.

    All processes of torch.distributed must call this together; one of them may have no rows.

    - [0]: DINOv2: Learning Robust Visual Features without Supervision, 2023,
      https://arxiv.org/abs/2304.07193
    - [1]: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, 2020,
      https://arxiv.org/abs/2006.09882

    Args:
        logits: Of the teacher [n, K].
        temperature: What logits are divided by, above 0.
        iterations: Rounds over prototypes and rows, at least 1.

    Returns:
        Probabilities [n, K] in float32 or wider, without a gradient; rows sum to 1.

    Raises:
        ConfigError: If ``temperature`` or ``iterations`` is out of range.
        QueryError: If ``logits`` is no table.

    Example:
        >>> sinkhorn_knopp(torch.tensor([[900.0, 0.0], [900.0, 0.0]]), 0.1)
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    if not temperature > 0 or iterations < 1:
        raise ConfigError(
            "expected a temperature above 0 and at least 1 iteration, found "
            f"{temperature} and {iterations}"
        )
    if logits.ndim != 2:
        raise QueryError(f"expected logits of shape [N, K], found {list(logits.shape)}")
    logarithms = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    for _ in range(iterations):
        # What the shares are, 1 / K or 1 / n, cancels in the division that follows.
        logarithms = logarithms - _prototype_totals(logarithms)
        logarithms = logarithms.log_softmax(dim=1)
    return logarithms.exp_()


def _prototype_totals(logarithms: Tensor) -> Tensor:
    """Of each prototype, the logarithm of its sum over the rows of all processes [K]."""
    totals = logarithms.logsumexp(dim=0)
    highest = max_over_processes(totals)
    return highest + sum_over_processes((totals - highest).exp()).log()
