"""Heads behind an image tower that self-supervised training needs and throws away afterwards.

Shapes: N vectors, D width of the vectors, b width of the bottleneck, K prototypes.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from owlkit.errors import ConfigError

# Smallest length that is divided by, as torch's own normalisation has it.
_SHORTEST = 1e-12


class Prototypes(nn.Module):
    """A linear layer without bias whose rows have a length of their own (weight normalisation [0]).

    - [0]: Weight Normalization, 2016, https://arxiv.org/abs/1602.07868

    Args:
        width: b, width of the vectors that are compared with the prototypes.
        count: K.
        free_gain: Learn each row's length, which starts at 1; False keeps it there.

    Attributes:
        weight: Directions of the prototypes, of any length [K, b].
        gain: Lengths of the rows [K]; None where all are 1.
    """

    gain: nn.Parameter | None

    def __init__(self, width: int, count: int, *, free_gain: bool = False) -> None:
        super().__init__()
        # Drawn as nn.Linear draws its rows.
        self.weight = nn.Parameter(nn.Linear(width, count, bias=False).weight.detach())
        self.gain = nn.Parameter(torch.ones(count)) if free_gain else None

    def forward(self, vectors: Tensor, *, frozen: bool = False) -> Tensor:
        """Returns products with the prototypes [N, K].

        Args:
            vectors: [N, b].
            frozen: The prototypes get no gradient from this call.
        """
        weight = self.weight.detach() if frozen else self.weight
        gain = self.gain.detach() if frozen and self.gain is not None else self.gain
        # Scaling the products and not the rows: no second copy of a weight of 65,536 rows.
        scale: Tensor = torch.linalg.vector_norm(weight, dim=-1).reciprocal()
        logits: Tensor = F.linear(vectors, weight) * (scale if gain is None else scale * gain)
        return logits


class DistillationHead(nn.Module):
    """DINO's projection head [0], which DINOv2 [1] uses for class and patch tokens.

    Linear layers with exact GELU between them down to a bottleneck, unit length, prototypes.

    - [0]: Emerging Properties in Self-Supervised Vision Transformers, 2021,
      https://arxiv.org/abs/2104.14294
    - [1]: DINOv2, 2023, https://arxiv.org/abs/2304.07193

    Args:
        in_width: D.
        out_dim: K.
        hidden_width: Of the layers before the bottleneck.
        bottleneck_width: b.
        layers: Linear layers up to the bottleneck, at least 1.
        batch_norm: Normalise each hidden layer over the batch, before its GELU.
        free_gain: Learn the prototypes' lengths; see :class:`Prototypes`.

    Attributes:
        mlp: The layers up to the bottleneck: one ``nn.Linear``, or an ``nn.Sequential`` in the
            original's order.
        prototypes: The last layer.

    Raises:
        ConfigError: If there are no layers.
    """

    def __init__(
        self,
        in_width: int,
        out_dim: int = 65536,
        *,
        hidden_width: int = 2048,
        bottleneck_width: int = 256,
        layers: int = 3,
        batch_norm: bool = False,
        free_gain: bool = False,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ConfigError(f"layers of a distillation head: expected at least 1, found {layers}")
        widths = [in_width, *[hidden_width] * (layers - 1), bottleneck_width]
        parts: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
        for wide, narrow in pairwise(widths[1:]):
            parts += [nn.BatchNorm1d(wide)] if batch_norm else []
            parts += [nn.GELU(), nn.Linear(wide, narrow)]
        self.mlp: nn.Module = nn.Sequential(*parts) if layers > 1 else parts[0]
        self.prototypes = Prototypes(bottleneck_width, out_dim, free_gain=free_gain)
        for module in self.mlp.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor, *, freeze_prototypes: bool = False) -> Tensor:
        """Returns logits of the prototypes [N, K]: cosines where gains are not learned.

        Args:
            features: Pooled vectors or patch tokens [N, D].
            freeze_prototypes: The last layer gets no gradient from this call, as in the first steps
                of a run.
        """
        bottleneck = self.mlp(features)
        # In float16 the shortest length is 0, and a vector of zeros would be divided by it.
        exact = bottleneck.to(torch.promote_types(bottleneck.dtype, torch.float32))
        directions = F.normalize(exact, dim=-1, eps=_SHORTEST).to(bottleneck.dtype)
        logits: Tensor = self.prototypes(directions, frozen=freeze_prototypes)
        return logits


class ProjectionHead(nn.Sequential):
    """BYOL's projector and predictor [0]: linear, batch norm, ReLU, linear.

    - [0]: Bootstrap Your Own Latent, 2020, https://arxiv.org/abs/2006.07733

    Args:
        in_width: D.
        hidden_width: Of the layer between.
        width: Of the output.
    """

    def __init__(self, in_width: int, hidden_width: int = 4096, width: int = 256) -> None:
        super().__init__(
            # The norm that follows takes a bias away.
            nn.Linear(in_width, hidden_width, bias=False),
            nn.BatchNorm1d(hidden_width),
            nn.ReLU(),
            nn.Linear(hidden_width, width),
        )
