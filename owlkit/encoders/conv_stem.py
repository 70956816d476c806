"""A few small convolutions in place of a vision transformer's one large patch convolution.

Shapes: B images, C channels, h and w patches, D tower width.
"""

import math
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from owlkit.errors import ConfigError

_GROUPS = 8


class ConvStem(PatchEmbed):
    """Turns images into patch tokens by 3x3 convolutions of stride 2, then a 1x1 convolution [0].

    One convolution for each factor 2 of the patch size; their channels double up to the tower's
    width. Small towers learn faster from it and bear larger learning rates.

    The original normalises each channel over the batch. Here groups of channels are normalised over
    their own image [1]: no token depends on another image, so training (also with each example's
    gradient clipped apart), weight averages and evaluation see the same function. A norm over the
    channels of each position would be local as well, but leaves colour, which outweighs form, as
    strong as it was: on small coloured shapes it learned forms several times slower, while groups
    learned them as fast as batches.

    - [0]: Early Convolutions Help Transformers See Better, 2021, https://arxiv.org/abs/2106.14881
    - [1]: Group Normalization, 2018, https://arxiv.org/abs/1803.08494

    Args:
        patch_size: Side of a patch in pixels; a power of two.
        in_chans: Channels of the images.
        embed_dim: D; a multiple of half the patch size.
        bias: Whether the last convolution has a bias; the others are followed by a norm.
        others: Of timm's ``PatchEmbed``, whose interface this class has; tokens are always laid out
            as NHWC, as timm asks for when images may have any size.

    Raises:
        ConfigError: If the patch size is no power of two, or the width cannot be halved as often
            as needed.
    """

    def __init__(
        self, *, patch_size: int, in_chans: int, embed_dim: int, bias: bool = True, **others: Any
    ) -> None:
        layers = patch_size.bit_length() - 1
        if patch_size < 2 or patch_size != 2**layers:
            raise ConfigError(
                f"stem 'conv' needs a patch_size that is a power of two, found {patch_size}"
            )
        if embed_dim % (patch_size // 2):
            raise ConfigError(
                f"stem 'conv' with patch_size {patch_size} needs an embed_dim that is a multiple "
                f"of {patch_size // 2}, found {embed_dim}"
            )
        super().__init__(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **others)
        widths = [in_chans, *(embed_dim >> halvings for halvings in reversed(range(layers)))]
        self.convs = nn.Sequential(*(_Layer(*pair) for pair in pairwise(widths)))
        self.proj = nn.Conv2d(embed_dim, embed_dim, 1, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """Returns tokens [B, h, w, D].

        Args:
            images: [B, C, H, W]; the sides are multiples of the patch size.
        """
        tokens: Tensor = self.proj(self.convs(images)).permute(0, 2, 3, 1)
        return tokens


class _Layer(nn.Module):
    """Convolution of stride 2, norm over groups of channels, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.GroupNorm(math.gcd(_GROUPS, out_channels), out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new weights by He's normal initialisation, 2015, for layers before a ReLU."""
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / 2, W / 2]."""
        return F.relu(self.norm(self.conv(features)))
