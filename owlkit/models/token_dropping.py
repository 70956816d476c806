"""Which patches are worth encoding: token dropping in training, as OWLv2 [0, section 3.2] does.

- [0]: Scaling Open-Vocabulary Object Detection, 2023, https://arxiv.org/abs/2306.09683
"""

import torch
from torch import Tensor

from owlkit.errors import ConfigError

NOISE = 0.01
"""Largest noise added to a pixel in [0, 1]; decides at random among patches of one flat colour."""


def keep_by_variance(
    images: Tensor, patch_size: int, *, drop: float, generator: torch.Generator | None = None
) -> Tensor:
    """Chooses the patches whose pixels vary most; sky, walls and padding go first.

    Args:
        images: uint8, or floating point in [0, 1], before normalisation [B, 3, H, W]. Pixels right
            of and below the last whole patch do not count.
        patch_size: Side of a patch in pixels.
        drop: Share of the P patches to drop, in [0, 1); ``floor(drop * P)`` patches are dropped.
        generator: Of the noise, on the device of the images; None for torch's own.

    Returns:
        Indices of the K patches to keep, row-major over the patch grid, ascending, int64 [B, K].
        They fit the ``keep`` of :meth:`owlkit.models.OwlDetector.encode_images`.

    Raises:
        ConfigError: If ``drop`` is outside [0, 1), or no patch fits into the images.
    """
    if not 0 <= drop < 1:
        raise ConfigError(f"the share of patches to drop must be in [0, 1), found {drop}")
    batch, channels, height, width = images.shape
    if not 1 <= patch_size <= min(height, width):
        raise ConfigError(
            f"patch_size must be from 1 to the sides of the images ({height}x{width}), "
            f"found {patch_size}"
        )
    rows, columns = height // patch_size, width // patch_size
    whole = images[:, :, : rows * patch_size, : columns * patch_size]
    pixels = whole / 255 if images.dtype == torch.uint8 else whole.float()
    noise = torch.rand(pixels.shape, device=pixels.device, generator=generator)
    noisy = pixels + NOISE * noise
    patches = noisy.reshape(batch, channels, rows, patch_size, columns, patch_size)
    variance = patches.var(dim=(1, 3, 5), correction=0).flatten(1)  # [B, P]
    count = rows * columns - int(drop * rows * columns)
    return variance.topk(count, dim=1, sorted=False).indices.sort(dim=1).values
