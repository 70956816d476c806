"""The decoder of a masked autoencoder: predicts the pixels of patches its encoder never saw.

Shapes: B images, P patches, K kept patches, D encoder width, w decoder width, p side of a patch in
pixels.
"""

import torch
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from owlkit.encoders.initialization import xavier_init_linears
from owlkit.encoders.positions import sincos_positions
from owlkit.errors import ConfigError, TokenError
from owlkit.structures import PatchFeatures


class MaskedDecoder(nn.Module):
    """MAE's decoder [0]: a small transformer over kept tokens and one learned token for all others.

    The encoder's pooled vector, which for MAE is its class token, goes in as a first token without
    a position.

    - [0]: Masked Autoencoders Are Scalable Vision Learners, 2021, https://arxiv.org/abs/2111.06377

    Args:
        input_width: D, of the encoder's tokens and pooled vector.
        grid: Height and width of the patch grid.
        patch_size: p.
        width: w; a multiple of ``heads`` and of 4.
        depth: Blocks.
        heads: Attention heads of each.

    Raises:
        ConfigError: If the width cannot be divided.
    """

    positions: Tensor

    def __init__(
        self,
        input_width: int,
        *,
        grid: tuple[int, int],
        patch_size: int,
        width: int = 512,
        depth: int = 8,
        heads: int = 16,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"decoder: width {width} is no multiple of its {heads} heads")
        self.grid = grid
        self.embed = nn.Linear(input_width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        # Computed, so it is neither trained nor saved.
        self.register_buffer("positions", sincos_positions(grid, width), persistent=False)
        self.blocks = nn.Sequential(
            *(Block(width, heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth))
        )
        self.norm = LayerNorm(width)
        self.predict = nn.Linear(width, patch_size**2 * 3)
        xavier_init_linears(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, features: PatchFeatures, keep: Tensor) -> Tensor:
        """Predicts the pixels of all patches, kept ones included.

        Args:
            features: Of the encoder that saw only the patches ``keep``.
            keep: Indices of these patches, int64 [B, K].

        Returns:
            Pixels of each patch, row by row with three channels each [B, P, p*p*3].

        Raises:
            TokenError: If the features are of another grid or another number of patches.
        """
        if features.grid != self.grid or features.tokens.shape[:2] != keep.shape:
            raise TokenError(
                f"decoder: expected tokens {list(keep.shape)} of a grid {self.grid}, found "
                f"{list(features.tokens.shape[:2])} of {features.grid}"
            )
        kept = self.embed(features.tokens)  # [B, K, w]
        hidden = self.mask_token.to(kept.dtype).expand(len(kept), len(self.positions), -1)
        index = keep[..., None].expand_as(kept)
        # In mixed precision the positions, like the encoder's, make float32 of what blocks add to.
        patches = hidden.scatter(1, index, kept) + self.positions
        first = self.embed(features.pooled)[:, None]  # [B, 1, w]
        tokens: Tensor = self.blocks(torch.cat([first, patches], dim=1))
        predictions: Tensor = self.predict(self.norm(tokens[:, 1:]))
        return predictions
