"""The loss of MAE [0]: the pixels of hidden patches must be guessed.

Shapes: B images, C colours, H x W pixels, P patches in rows from the top left, p side of a patch.

- [0]: Masked Autoencoders Are Scalable Vision Learners, 2021, https://arxiv.org/abs/2111.06377
"""

import torch
from torch import Tensor

from owlkit.errors import ConfigError, InputSizeError, QueryError

_VARIANCE_FLOOR = 1e-6


def patch_pixels(images: Tensor, patch_size: int) -> Tensor:
    """The pixels of each patch in one row: in rows from the top left, the colours innermost.

    Args:
        images: [B, C, H, W].
        patch_size: p in pixels, at least 1.

    Returns:
        [B, P, p * p * C], P = H / p * W / p.

    Raises:
        ConfigError: If ``patch_size`` is less than 1.
        InputSizeError: If height or width is no multiple of the patch.

    Example:
        >>> patch_pixels(torch.arange(8.0).view(1, 1, 2, 4), 2)
        tensor([[[0., 1., 4., 5.],
                 [2., 3., 6., 7.]]])
    """
    if patch_size < 1:
        raise ConfigError(f"expected a patch_size of at least 1, found {patch_size}")
    if images.ndim != 4 or any(side == 0 or side % patch_size for side in images.shape[2:]):
        raise InputSizeError(
            f"expected images [B, C, H, W] with sides that are multiples of {patch_size}, "
            f"found {list(images.shape)}"
        )
    batch, colours, height, width = images.shape
    rows, columns = height // patch_size, width // patch_size
    patches = images.reshape(batch, colours, rows, patch_size, columns, patch_size)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)


def masked_pixel_loss(
    predictions: Tensor, images: Tensor, mask: Tensor, *, patch_size: int, normalize: bool = True
) -> Tensor:
    """Mean squared error over the pixels of the hidden patches.

    Args:
        predictions: In the order of :func:`patch_pixels` [B, P, p * p * C].
        images: As the encoder gets them [B, C, H, W].
        mask: True where a patch was hidden [B, P].
        patch_size: p in pixels, at least 1.
        normalize: Predict each patch less its own mean and over its own standard deviation
            (unbiased), which the paper finds to give better features.

    Returns:
        A scalar in float32 or wider; 0 where nothing is hidden.

    Raises:
        ConfigError: If ``patch_size`` is less than 1.
        InputSizeError: If height or width is no multiple of the patch.
        QueryError: If predictions or mask do not fit the images.
    """
    dtype = torch.promote_types(predictions.dtype, torch.float32)
    targets = patch_pixels(images.to(dtype), patch_size)
    if predictions.shape != targets.shape or mask.shape != targets.shape[:2]:
        raise QueryError(
            f"expected predictions {list(targets.shape)} and a mask {list(targets.shape[:2])}, "
            f"found {list(predictions.shape)} and {list(mask.shape)}"
        )
    if normalize:
        variances, means = torch.var_mean(targets, dim=2, keepdim=True)
        targets = (targets - means) / (variances + _VARIANCE_FLOOR).sqrt()
    errors = (predictions.to(dtype) - targets).square().mean(dim=2)  # [B, P]
    return (errors * mask).sum() / mask.sum().clamp(min=1)
