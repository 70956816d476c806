"""KoLeo [0]: pushes each vector of a batch away from its nearest neighbour.

Shapes: B vectors of this process, D their width.

- [0]: Spreading vectors for similarity search, 2018, https://arxiv.org/abs/1806.03198
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from owlkit.errors import QueryError

EPSILON = 1e-8
"""Added to distances before their logarithm, as in DINOv2."""

DUPLICATE_DISTANCE = 1e-6
"""Unit vectors that are nearer than this are equal as far as float32 can tell."""


def koleo_loss(features: Tensor) -> Tensor:
    """Minus the mean logarithm of the distance to the nearest neighbour on the unit sphere.

    The Kozachenko-Leonenko estimate of the entropy, as DINOv2 (https://arxiv.org/abs/2304.07193)
    adds it for each global view by itself, on each process by itself. It is computed in float32
    under autocast too: small distances are what it is about.

    Vectors whose nearest neighbour is their duplicate (the same picture twice in a batch) add to
    the loss but get no gradient of it: it would point nowhere in particular, and be 1e7 long.

    Args:
        features: Before any normalisation [B, D], B at least 2.

    Returns:
        A scalar in float32 or wider.

    Raises:
        QueryError: If there are not at least 2 vectors.

    Example:
        >>> koleo_loss(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))  # -ln sqrt(2)
        tensor(-0.3466)
    """
    if features.ndim != 2 or len(features) < 2:
        raise QueryError(
            f"expected features [B, D] with B of at least 2, found {list(features.shape)}"
        )
    with torch.autocast(features.device.type, enabled=False):
        dtype = torch.promote_types(features.dtype, torch.float32)
        directions = F.normalize(features.to(dtype), dim=1, eps=EPSILON)
        neighbors = directions[_nearest(directions.detach())]
        distances = F.pairwise_distance(directions, neighbors, eps=EPSILON)
        distances = torch.where(distances < DUPLICATE_DISTANCE, distances.detach(), distances)
        return -(distances + EPSILON).log().mean()


def _nearest(directions: Tensor) -> Tensor:
    """Of each unit vector, the index of the nearest other one [B]."""
    cosines = directions @ directions.mT
    return cosines.fill_diagonal_(-torch.inf).argmax(dim=1)
