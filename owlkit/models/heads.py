"""Class, box and objectness heads, applied to every image patch.

Shapes: B images, P patches (row-major grid), Q queries, D tower width, E embedding width.

The heads follow OWL-ViT [0]; objectness comes from OWLv2 [1].

- [0]: Simple Open-Vocabulary Object Detection with Vision Transformers, 2022,
  https://arxiv.org/abs/2205.06230
- [1]: Scaling Open-Vocabulary Object Detection, 2023, https://arxiv.org/abs/2306.09683
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from owlkit.encoders.initialization import init_lecun_normal


def unit_embeddings(embeddings: Tensor) -> Tensor:
    """Scales embeddings to unit length as OWL-ViT does: 1e-6 is added to the norm.

    Args:
        embeddings: [..., E].

    Returns:
        [..., E]; a zero vector stays zero.
    """
    norm: Tensor = torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)
    return embeddings / (norm + 1e-6)


def box_bias(
    grid: tuple[int, int],
    *,
    size_bias: Literal["width", "both"] = "width",
    kind: Literal["both", "location", "size"] = "both",
    device: torch.device | None = None,
) -> Tensor:
    """Prior of each patch's box, before the sigmoid: centred on its patch, one patch large.

    The centre is the patch's lower right corner, as in the original; one learned offset for all
    patches would undo the difference, but published weights expect it.

    Args:
        grid: Height and width of the patch grid.
        size_bias: ``width``: 1/W for both sides (scenic). ``both``: 1/W and 1/H (Hugging Face).
        kind: ``location`` leaves the size at 0, ``size`` leaves the centre at 0.
        device: Where the result lives.

    Returns:
        Logits of (cx, cy, w, h) [H*W, 4], row-major, float32.
    """
    height, width = grid
    x = torch.arange(1, width + 1, device=device, dtype=torch.float32) / width
    y = torch.arange(1, height + 1, device=device, dtype=torch.float32) / height
    centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)  # [H*W, 2]
    sides = torch.tensor([1 / width, 1 / (width if size_bias == "width" else height)])
    sizes = sides.to(centres).expand_as(centres)
    location = _logit(centres) if kind != "size" else torch.zeros_like(centres)
    size = _logit(sizes) if kind != "location" else torch.zeros_like(sizes)
    return torch.cat([location, size], dim=-1)


def _logit(probability: Tensor) -> Tensor:
    """Logit that stays finite at 0 and 1."""
    return torch.log(probability + 1e-4) - torch.log1p(-probability + 1e-4)


class ClassHead(nn.Module):
    """Scores every patch against every query by shifted and scaled cosine similarity.

    Shift and scale are read from the patch, so a patch can be sure of nothing without the queries
    having to say so.

    Args:
        width: D, width of the patch tokens.
        embed_width: E, width of the query embeddings.
        prior_prob: Probability that every pair starts with; the shift's bias is its logit.
    """

    def __init__(self, width: int, embed_width: int, *, prior_prob: float = 0.01) -> None:
        super().__init__()
        self.dense = nn.Linear(width, embed_width)
        self.logit_shift = nn.Linear(width, 1)
        self.logit_scale = nn.Linear(width, 1)
        nn.init.normal_(self.dense.weight, std=1e-6)
        nn.init.zeros_(self.dense.bias)
        for layer in (self.logit_shift, self.logit_scale):
            init_lecun_normal(layer)
        nn.init.constant_(self.logit_shift.bias, math.log(prior_prob / (1 - prior_prob)))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns class embeddings [B, P, E], not normalised, shift and positive scale [B, P, 1].

        Args:
            tokens: Merged patch tokens [B, P, D].
        """
        return self.dense(tokens), self.logit_shift(tokens), F.elu(self.logit_scale(tokens)) + 1


def score_queries(
    class_embeds: Tensor, logit_shift: Tensor, logit_scale: Tensor, unit_queries: Tensor
) -> Tensor:
    """Logits ``(cosine + shift) * scale`` in one matrix product.

    The scale is folded into the patch side, so nothing larger than the result is made.

    Args:
        class_embeds: Patch embeddings, not normalised [B, P, E].
        logit_shift: [B, P, 1].
        logit_scale: [B, P, 1].
        unit_queries: Queries as they enter the dot product: unit vectors, or means of unit vectors
            (whose logit is the mean of the members' logits) [Q, E] or [B, Q, E].

    Returns:
        Logits [B, P, Q], float32.
    """
    # Logits lie around -5; bfloat16, as autocast would choose, has three decimal digits there.
    with torch.autocast(class_embeds.device.type, enabled=False):
        scale = logit_scale.float()
        scaled = unit_embeddings(class_embeds.float()) * scale
        if unit_queries.ndim == 2:
            unit_queries = unit_queries.expand(scaled.shape[0], -1, -1)
        return torch.baddbmm(logit_shift.float() * scale, scaled, unit_queries.float().mT)


class PatchMLP(nn.Module):
    """Three dense layers on every patch, as wide as the patch; GELU between them.

    Args:
        width: D, width of the patch tokens and of the hidden layers.
        out_features: Numbers per patch: 4 for boxes, 1 for objectness.
        gelu: ``tanh`` for the approximate GELU, ``none`` for the exact one.
    """

    def __init__(self, width: int, out_features: int, *, gelu: Literal["tanh", "none"]) -> None:
        super().__init__()
        self.dense0 = nn.Linear(width, width)
        self.dense1 = nn.Linear(width, width)
        self.dense2 = nn.Linear(width, out_features)
        self.gelu = gelu
        for layer in (self.dense0, self.dense1):
            init_lecun_normal(layer)
        # Boxes start exactly at their prior, objectness at 0.
        nn.init.zeros_(self.dense2.weight)
        nn.init.zeros_(self.dense2.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns [B, P, out_features].

        Args:
            tokens: Merged patch tokens [B, P, D].
        """
        hidden = F.gelu(self.dense0(tokens), approximate=self.gelu)
        hidden = F.gelu(self.dense1(hidden), approximate=self.gelu)
        output: Tensor = self.dense2(hidden)
        return output
