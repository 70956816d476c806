"""The triplet loss [0]: a pair must be closer than a mismatch, by a margin.

Shapes: b pairs on each process, B pairs on all of them, E embedding width.

- [0]: VSE++: Improving Visual-Semantic Embeddings with Hard Negatives, 2018,
  https://arxiv.org/abs/1707.05612
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from owlkit.errors import ConfigError
from owlkit.losses.contrastive import pair_identities, widened_pairs
from owlkit.losses.gather import gather_rows, row_positions

Mining = Literal["hard", "semi_hard", "all"]


def triplet_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    *,
    margin: float = 0.2,
    mining: Mining = "hard",
    identities: Tensor | None = None,
) -> Tensor:
    """``max(0, margin + sim(anchor, negative) - sim(anchor, positive))`` over a batch.

    Each image is an anchor among all texts, each text among all images; sim is the cosine. The
    positive is the other half of the anchor's pair; rows of another identity are its negatives. An
    anchor that has none to compare with counts as 0, so a batch of one identity gives a loss of 0
    that can still be differentiated.

    Where torch.distributed has several processes, all call this together with equally many rows,
    and negatives come from all of them. The mean of the processes' losses is the loss of the whole
    batch, and so are the means of their gradients.

    Args:
        image_embeds: L2-normalised [b, E]; row i belongs to row i of the texts.
        text_embeds: L2-normalised [b, E].
        margin: How much closer the positive must be, in cosine, at least 0.
        mining: Which negatives count. ``hard``: the most similar one, as in [0]. ``semi_hard``: the
            most similar of those that are less similar than the positive, as in FaceNet, 2015,
            https://arxiv.org/abs/1503.03832. ``all``: the mean over all of them.
        identities: Integers, equal for rows that mean the same [b]; None if all rows differ.

    Returns:
        The mean over the anchors of both directions, a scalar in float32 or wider.

    Raises:
        ConfigError: If ``margin`` is negative or ``mining`` is none of the three.
        QueryError: If the shapes do not fit.

    Example:
        >>> eye = torch.eye(2)
        >>> triplet_loss(eye, eye.flip(0))
        tensor(1.2000)
    """
    if mining not in get_args(Mining):
        raise ConfigError(f"mining must be 'hard', 'semi_hard' or 'all', found {mining!r}")
    if margin < 0:
        raise ConfigError(f"expected a margin of at least 0, found {margin}")
    images, texts = widened_pairs(image_embeds, text_embeds)
    identities = pair_identities(identities, images)
    negative = identities[:, None] != gather_rows(identities)  # [b, B]
    own = row_positions(images)[:, None]
    losses = []
    with torch.autocast(images.device.type, enabled=False):
        for rows, columns in ((images, gather_rows(texts)), (texts, gather_rows(images))):
            similarities = rows @ columns.mT  # [b, B]
            excess = similarities - similarities.gather(1, own)
            losses.append(_MINED[mining](excess, negative, margin))
    return torch.stack(losses).mean()


def _hard(excess: Tensor, negative: Tensor, margin: float) -> Tensor:
    hardest = excess.masked_fill(~negative, -torch.inf).amax(dim=1)
    return (margin + hardest).relu().mean()


def _semi_hard(excess: Tensor, negative: Tensor, margin: float) -> Tensor:
    return _hard(excess, negative & (excess < 0), margin)


def _all(excess: Tensor, negative: Tensor, margin: float) -> Tensor:
    sums = (margin + excess).relu().masked_fill(~negative, 0).sum(dim=1)
    return (sums / negative.sum(dim=1).clamp(min=1)).mean()


# Each takes [b, B]: how much more similar than the positive a row is, and whether it is a negative.
_MINED: Mapping[Mining, Callable[[Tensor, Tensor, float], Tensor]] = {
    "hard": _hard,
    "semi_hard": _semi_hard,
    "all": _all,
}
