"""The loss of SimCLR [0]: a view must find the other view of its image among all views.

Shapes: b images on each process, B images on all of them, F width of the projection head.

- [0]: A Simple Framework for Contrastive Learning of Visual Representations, 2020,
  https://arxiv.org/abs/2002.05709
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from owlkit.errors import ConfigError
from owlkit.losses.contrastive import widened_pairs
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
    with torch.autocast(views.device.type, enabled=False):
        logits = (views / temperature) @ gather_rows(views).mT  # [2 b, 2 B]
        others = logits.scatter(1, own[:, None], -torch.inf)
        return F.cross_entropy(others, own.roll(len(first)))
