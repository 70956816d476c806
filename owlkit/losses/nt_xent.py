"""The loss of SimCLR [0]: a view must find the other view of its image among all views.

Views are compared a chunk at a time, as in :mod:`owlkit.losses.contrastive`.

Shapes: b images on each process, B images on all of them, C views of a chunk, F width of the
projection head.

- [0]: A Simple Framework for Contrastive Learning of Visual Representations, 2020,
  https://arxiv.org/abs/2002.05709
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from owlkit.errors import ConfigError
from owlkit.losses.contrastive import CHUNK_SIZE, sum_over_chunks, widened_pairs
from owlkit.losses.gather import gather_rows, row_positions


def nt_xent_loss(first: Tensor, second: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Cross-entropy of each of the 2 B views, which must choose the other view of its image.

    It chooses among the 2 B - 1 views that are not itself, by cosine over temperature.

    Where torch.distributed has several processes, all call this together with equally many rows,
    and views come from all of them. The mean of the processes' losses is the loss of the whole
    batch, and so are the means of their gradients.

    Args:
        first: One view of each image, L2-normalised [b, F].
        second: Another view of each, in the same order [b, F].
        temperature: What cosines are divided by, above 0.

    Returns:
        The mean over the views of this process, a scalar in float32 or wider.

    Raises:
        ConfigError: If ``temperature`` is not above 0.
        QueryError: If the shapes do not fit.

    Example:
        >>> views = torch.eye(2)
        >>> nt_xent_loss(views, views, temperature=1.0)  # ln(1 + 2 / e)
        tensor(0.5514)
    """
    if not temperature > 0:
        raise ConfigError(f"expected a temperature above 0, found {temperature}")
    views = torch.cat(widened_pairs(first, second))  # [2 b, F]
    own = row_positions(views)
    positions = torch.stack([own, own.roll(len(first))], dim=1)
    with torch.autocast(views.device.type, enabled=False):
        total = sum_over_chunks(
            _choice, CHUNK_SIZE, views / temperature, positions, gather_rows(views)
        )
    return total / len(views)


def _choice(views: Tensor, positions: Tensor, columns: Tensor) -> Tensor:
    """Cross-entropy of views [C, F] that choose among columns [2 B, F]; the sum over the views [].

    Args:
        views: Divided by the temperature [C, F].
        positions: Where among the columns a view itself is and the one to choose [C, 2].
        columns: All views [2 B, F].
    """
    own, other = positions.unbind(dim=1)
    logits = (views @ columns.mT).scatter_(1, own[:, None], -torch.inf)  # [C, 2 B]
    return F.cross_entropy(logits, other, reduction="sum")
