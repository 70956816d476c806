"""Pixels as the loader delivers them made into what an image tower takes."""

import torch
from torch import Tensor, nn

from owlkit.geometry import Preprocessing


class PixelScaler(nn.Module):
    """Normalises colours where the model runs, so that a quarter of the bytes travels there.

    Args:
        preprocessing: The mean and deviation of its colours, for values in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name))[:, None, None] * 255
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalises images.

        Args:
            images: RGB, uint8 [..., 3, H, W], in any layout of memory.

        Returns:
            float32 [..., 3, H, W], contiguous.
        """
        return (images.contiguous() - self.mean) / self.std
