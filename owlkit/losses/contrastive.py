"""Losses that pull matching images and texts together: CLIP's and SigLIP's.

Both compare every image with every text of the batch, a chunk of rows at a time. The backward pass
makes each chunk again, so that nothing of the size of all pairs is kept or made.

Shapes: b pairs on each process, B pairs on all of them, C rows of a chunk, E embedding width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from owlkit.errors import ConfigError, QueryError
from owlkit.losses.gather import gather_rows, row_positions

CHUNK_SIZE = 256
"""Rows that are compared with all others at a time, where nobody says otherwise."""


def clip_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    *,
    identities: Tensor | None = None,
) -> Tensor:
    """Symmetric cross-entropy over all pairs of a batch, as CLIP [0] is trained.

    Each image must choose its text among the B texts, each text its image. Rows of one identity are
    positives of each other: the target is uniform over them, as in the supervised form of [1].

    Where torch.distributed has several processes, all call this together with equally many rows;
    each contrasts its own with those of all. The mean of the processes' losses is the loss of the
    whole batch, and so are the means of their gradients.

    - [0]: Learning Transferable Visual Models From Natural Language Supervision, 2021,
      https://arxiv.org/abs/2103.00020
    - [1]: Unified Contrastive Learning in Image-Text-Label Space, 2022,
      https://arxiv.org/abs/2204.03610

    Args:
        image_embeds: L2-normalised [b, E]; row i belongs to row i of the texts.
        text_embeds: L2-normalised [b, E].
        logit_scale: The temperature factor itself, not its logarithm [].
        identities: Integers, equal for rows that mean the same [b]; None if all rows differ.

    Returns:
        The mean of both directions, a scalar in float32 or wider.

    Raises:
        QueryError: If the shapes do not fit.

    Example:
        >>> eye = torch.eye(2)
        >>> clip_loss(eye, eye, torch.tensor(1.0))  # ln(1 + 1 / e)
        tensor(0.3133)
    """
    images, texts = widened_pairs(image_embeds, text_embeds)
    identities = pair_identities(identities, images)
    all_identities = gather_rows(identities)
    scale = logit_scale.to(images.dtype)
    # The softmax of a half-precision row loses the small probabilities that the loss is about.
    with torch.autocast(images.device.type, enabled=False):
        losses = [
            sum_over_chunks(_choice, CHUNK_SIZE, rows, identities, columns, all_identities, scale)
            for rows, columns in ((images, gather_rows(texts)), (texts, gather_rows(images)))
        ]
    return (losses[0] + losses[1]) / (2 * len(images))


def siglip_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    identities: Tensor | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Tensor:
    """Sigmoid cross-entropy of every pair of a batch by itself, as SigLIP [0] is trained.

    Each pair of image and text is asked whether it belongs together; the answer is yes for rows of
    one identity. The sum over all pairs is divided by the number of images.

    Where torch.distributed has several processes, all call this together with equally many rows;
    each compares its images with the texts of all. The mean of the processes' losses is the loss of
    the whole batch, and so are the means of their gradients.

    - [0]: Sigmoid Loss for Language Image Pre-Training, 2023, https://arxiv.org/abs/2303.15343

    Args:
        image_embeds: L2-normalised [b, E]; row i belongs to row i of the texts.
        text_embeds: L2-normalised [b, E].
        logit_scale: The temperature factor itself, not its logarithm [].
        logit_bias: Added to every logit []; ``-ln(B - 1)`` starts at the share of positives.
        identities: Integers, equal for rows that mean the same [b]; None if all rows differ.
        chunk_size: Texts that are compared with all images at once, at least 1. It sets
            the memory, not the result.

    Returns:
        A scalar in float32 or wider.

    Raises:
        ConfigError: If ``chunk_size`` is less than 1.
        QueryError: If the shapes do not fit.

    Example:
        >>> eye = torch.eye(2)
        >>> siglip_loss(eye, eye, torch.tensor(0.0), torch.tensor(0.0))  # ln 2 for each of 4 pairs
        tensor(1.3863)
    """
    if chunk_size < 1:
        raise ConfigError(f"expected chunk_size of at least 1, found {chunk_size}")
    images, texts = widened_pairs(image_embeds, text_embeds)
    identities = pair_identities(identities, images)
    scale, bias = logit_scale.to(images.dtype), logit_bias.to(images.dtype)
    texts, text_identities = gather_rows(texts), gather_rows(identities)
    with torch.autocast(images.device.type, enabled=False):
        total = sum_over_chunks(
            _agreement, chunk_size, texts, text_identities, images, identities, scale, bias
        )
    return total / len(images)


def widened_pairs(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides of the pairs in float32, in float64 if one of them is.

    Args:
        first: [b, E]; row i belongs to row i of the second.
        second: [b, E].

    Raises:
        QueryError: If they are not two tables of one shape with at least one row.
    """
    if first.ndim != 2 or first.shape != second.shape or len(first) == 0:
        raise QueryError(
            "expected embeddings of two sides, [B, E] each with one B of at least 1, found "
            f"{list(first.shape)} and {list(second.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    return first.to(dtype), second.to(dtype)


def pair_identities(identities: Tensor | None, rows: Tensor) -> Tensor:
    """The identities of the rows of this process [b]; numbers of their own if None are given.

    Args:
        identities: Integers, equal for rows that mean the same [b]; None if all rows differ.
        rows: What they identify [b, ...].

    Raises:
        QueryError: If there is not one identity for each row.
    """
    if identities is None:
        return row_positions(rows)
    if identities.shape != rows.shape[:1]:
        raise QueryError(
            f"expected identities of shape {list(rows.shape[:1])}, found {list(identities.shape)}"
        )
    return identities.to(rows.device)


def sum_over_chunks(
    term: Callable[..., Tensor], size: int, rows: Tensor, labels: Tensor, *others: Tensor
) -> Tensor:
    """Sums a term over chunks of rows; the backward pass makes each chunk again.

    Args:
        term: Takes rows [C, E], their labels and the others; returns the sum over these rows [].
        size: C, at least 1.
        rows: [b, E].
        labels: What ``term`` has to know of each row [b, ...].
        others: What every chunk gets whole.
    """
    if len(rows) <= size:
        return term(rows, labels, *others)
    chunks = zip(torch.split(rows, size), torch.split(labels, size), strict=True)
    sums = [
        checkpoint(term, *chunk, *others, use_reentrant=False, preserve_rng_state=False)
        for chunk in chunks
    ]
    return torch.stack(sums).sum()


def _choice(
    rows: Tensor, identities: Tensor, columns: Tensor, column_identities: Tensor, scale: Tensor
) -> Tensor:
    """Cross-entropy of rows [C, E] that choose among columns [B, E]; the sum over the rows []."""
    logits = scale * rows @ columns.mT  # [C, B]
    positive = (identities[:, None] == column_identities).to(logits.dtype)
    targets = positive / positive.sum(dim=1, keepdim=True)
    return F.cross_entropy(logits, targets, reduction="sum")


def _agreement(
    texts: Tensor,
    text_identities: Tensor,
    images: Tensor,
    identities: Tensor,
    scale: Tensor,
    bias: Tensor,
) -> Tensor:
    """Sigmoid cross-entropy of texts [C, E] with images [b, E]; the sum over all pairs []."""
    logits = scale * images @ texts.mT + bias  # [b, C]
    positive = identities[:, None] == text_identities
    # The sign goes inside: a difference of softplus and logit would cancel where the loss is small.
    return -F.logsigmoid(torch.where(positive, logits, -logits)).sum()
