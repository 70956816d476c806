"""Losses that pull matching images and texts together.

Shapes: B pairs, E embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def clip_loss(image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over all pairs of a batch, as CLIP [0] is trained.

    Each image must choose its text among the B texts, each text its image.

    - [0]: Learning Transferable Visual Models From Natural Language Supervision, 2021,
      https://arxiv.org/abs/2103.00020

    Args:
        image_embeds: L2-normalised [B, E]; row i belongs to row i of the texts.
        text_embeds: L2-normalised [B, E].
        logit_scale: The temperature factor itself, not its logarithm [].

    Returns:
        The mean of both directions, a scalar in float32 or wider.

    Example:
        >>> eye = torch.eye(2)
        >>> clip_loss(eye, eye, torch.tensor(100.0))
        tensor(0.)
    """
    # The softmax of a half-precision row loses the small probabilities that the loss is about.
    with torch.autocast(image_embeds.device.type, enabled=False):
        images, texts = _widened(image_embeds), _widened(text_embeds)
        logits = logit_scale.to(images.dtype) * images @ texts.mT  # [B, B]
        pairs = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.mT, pairs)) / 2


def _widened(embeds: Tensor) -> Tensor:
    return embeds if embeds.dtype == torch.float64 else embeds.float()
