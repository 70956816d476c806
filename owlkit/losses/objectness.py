"""Supervision of the query-free objectness score of OWLv2."""

import torch
from torch import Tensor

from owlkit.losses.focal import focal_loss


def objectness_loss(objectness: Tensor, logits: Tensor, query_mask: Tensor) -> Tensor:
    """Teaches each token to foretell how well it will answer the best of its queries.

    OWLv2 [0, section 3.2] supervises the objectness of a token by the classification score that
    the token then gets, on the tokens chosen for the class head only; form, target and weight are
    not published. owlkit's choice is binary cross-entropy against the largest class probability
    over the image's real queries, through which no gradient flows.

    - [0]: Scaling Open-Vocabulary Object Detection, 2023, https://arxiv.org/abs/2306.09683

    Args:
        objectness: Logits of the chosen tokens [B, P].
        logits: Class logits of the same tokens [B, P, Q].
        query_mask: True where a query is real [B, Q].

    Returns:
        Losses [B, P]; 0 in images without a real query, which say nothing about their tokens.
    """
    asked = query_mask.any(dim=1)[:, None]  # [B, 1]
    if logits.shape[-1] == 0:
        return torch.zeros_like(objectness)
    best = logits.detach().masked_fill(~query_mask[:, None], -torch.inf).amax(dim=-1)
    return focal_loss(objectness, best.sigmoid(), alpha=None).where(asked, 0)
