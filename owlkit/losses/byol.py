"""The loss of BYOL [0]: one view must predict what the target network says of the other.

- [0]: Bootstrap your own latent, 2020, https://arxiv.org/abs/2006.07733
"""

import torch.nn.functional as F
from torch import Tensor

from owlkit.losses.contrastive import widened_pairs


def byol_loss(online: Tensor, target: Tensor) -> Tensor:
    """The squared distance of directions, which is 2 - 2 cos: 0 if they agree, 4 if opposite.

    Args:
        online: Predictions from one view [B, F]; row i belongs to row i of the target.
        target: Projections of the other view by the target network [B, F]; gets no gradient.

    Returns:
        The mean over the rows, a scalar in float32 or wider.

    Raises:
        QueryError: If the shapes do not fit.

    Example:
        >>> import torch
        >>> byol_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]]))
        tensor(2.)
    """
    online, target = widened_pairs(online, target.detach())
    difference = F.normalize(online, dim=1) - F.normalize(target, dim=1)
    return difference.square().sum(dim=1).mean()
