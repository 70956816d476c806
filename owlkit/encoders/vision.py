"""The image tower: any timm backbone behind one contract.

Shapes: B images, P patches, K kept patches, D tower width.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from timm.models import is_model_in_modules
from torch import Tensor, nn

from owlkit.encoders import vit
from owlkit.encoders.feature_map import encode_feature_map
from owlkit.encoders.long_attention import long_attention
from owlkit.encoders.positions import (
    PositionMode,
    check_position_mode,
    published_positions,
    resample_positions,
)
from owlkit.encoders.timm_models import (
    Override,
    create_timm_model,
    default_image_size,
    is_vision_transformer,
    set_drop_paths,
)
from owlkit.errors import ConfigError, InputSizeError, TokenError
from owlkit.structures import PatchFeatures

# On CPUs torch's fused attention is no faster in bfloat16 than in float32. Up to this many patches
# plain matrix products take half its time (3.2 against 7.3 ms at 577 tokens, 8.5 against 20 at
# 1,025) and are as close to float32; at 1,600 they no longer gain anything. More patches
# than that are a matter of owlkit.encoders.long_attention.
_PLAIN_ATTENTION_PATCHES = 1024


class VisionTower(nn.Module):
    """Turns images into patch tokens, a pooled vector and the grid they lie on.

    Vision transformers (CLIP, SigLIP, DINO, DINOv2 with or without registers, DINOv3, plain) run
    block by block, so patches can be dropped or masked and attention watched. ResNet (also CLIP's),
    Swin and ConvNeXt give the cells of their last feature map.

    Args:
        name: timm architecture, for example ``vit_base_patch16_clip_quickgelu_224``.
        image_size: Height and width the position table is made for, in pixels; None takes the
            architecture's own. Other sizes work in ``forward`` too.
        positions: How learned positions reach another grid; see
            :func:`~owlkit.encoders.positions.resample_positions`. None takes the rule of timm's
            published weights.
        drop_path: Stochastic depth rate of the last block, rising linearly from 0, in [0, 1).
        rescale_dropped: Divide kept branches by their probability of being kept, as is usual; False
            is what OWL-ViT was trained with.
        uniform_drop_path: Give every block the rate ``drop_path``, as DINOv2, instead of letting it
            rise; vision transformers only.
        mask_token: Own a learned token that can replace masked patches.
        overrides: Keyword arguments for the timm constructor, such as ``embed_dim`` or ``depth``;
            ``norm_eps`` (float) and ``mlp="swiglu"`` are understood for vision transformers, and
            ``stem="conv"`` for plain ones: see :class:`~owlkit.encoders.conv_stem.ConvStem`.
        pretrained: Load timm's published weights from the hub (or its cache).

    Attributes:
        width: D, width of the patch tokens.
        pooled_width: Width of the pooled vector.
        image_size: Height and width of the native input, in pixels.
        quick_attention: Whether ``forward`` may compute attention over many patches in its own way
            on a CPU, see :mod:`owlkit.encoders.long_attention`; only without gradients.

    Raises:
        ConfigError: If timm does not know the architecture or one of the overrides.
        CheckpointError: If ``pretrained`` weights cannot be had.
    """

    # One argument for each entry of a saved tower's specification.
    def __init__(  # noqa: PLR0913
        self,
        name: str,
        *,
        image_size: int | tuple[int, int] | None = None,
        positions: PositionMode | None = None,
        drop_path: float = 0.0,
        rescale_dropped: bool = True,
        uniform_drop_path: bool = False,
        mask_token: bool = False,
        overrides: dict[str, Override] | None = None,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.positions = check_position_mode(positions or published_positions(name))
        self.drop_path = drop_path
        self.rescale_dropped = rescale_dropped
        self.uniform_drop_path = uniform_drop_path
        self.overrides = dict(overrides or {})
        self.image_size = _to_pair(image_size or default_image_size(name))
        self.is_vit = is_vision_transformer(name)
        arguments = {"drop_path_rate": drop_path, "pretrained": pretrained, **self.overrides}
        self.model: Any = create_timm_model(name, self.image_size, arguments)
        set_drop_paths(
            name, self.model, drop_path, rescale=rescale_dropped, uniform=uniform_drop_path
        )
        self.quick_attention = False
        self._gradient_checkpointing = False
        self.width = int(self.model.num_features)
        self.pooled_width = int(getattr(self.model, "head_hidden_size", self.width))
        self.mask_token = nn.Parameter(torch.zeros(self.width)) if mask_token else None
        if mask_token and not self.is_vit:
            raise ConfigError(
                f"mask_token: {name} is no vision transformer and cannot mask patches"
            )

    @classmethod
    def from_pretrained(cls, folder_or_id: str | Path) -> "VisionTower":
        """Loads a tower from a folder or hub id of owlkit, timm or Hugging Face.

        Raises:
            CheckpointError: If the folder is missing or of another kind, or weights do not fit.
        """
        from owlkit.encoders.pretrained import load_vision_tower

        return load_vision_tower(folder_or_id).eval()

    @property
    def spec(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON; ``VisionTower(**spec)`` is its twin."""
        return {
            "name": self.name,
            "image_size": list(self.image_size),
            "positions": self.positions,
            "drop_path": self.drop_path,
            "rescale_dropped": self.rescale_dropped,
            "uniform_drop_path": self.uniform_drop_path,
            "mask_token": self.mask_token is not None,
            "overrides": self.overrides,
        }

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether blocks are recomputed in the backward pass, to save memory in training."""
        return self._gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self._gradient_checkpointing = enable
        if not self.is_vit:
            self.model.set_grad_checkpointing(enable)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights; images are converted to it."""
        return next(self.parameters()).dtype

    @property
    def patch_size(self) -> int:
        """Side of a patch, or of a feature map's cell, in pixels."""
        if self.is_vit:
            return int(self.model.patch_embed.patch_size[0])
        return int(self.model.feature_info[-1]["reduction"])

    @property
    def grid(self) -> tuple[int, int]:
        """Patch grid (height, width) at the native input size."""
        height, width = self.image_size
        if self.is_vit or self._floors:
            return height // self.patch_size, width // self.patch_size
        return -(-height // self.patch_size), -(-width // self.patch_size)

    @property
    def _floors(self) -> bool:
        """Whether the backbone's stages cut off what does not fill a cell, as ConvNeXt's do."""
        return is_model_in_modules(self.name, ("convnext",))

    def forward(
        self, pixel_values: Tensor, *, keep: Tensor | None = None, mask: Tensor | None = None
    ) -> PatchFeatures:
        """Encodes a batch of images of one size.

        Args:
            pixel_values: Normalised images [B, 3, H, W].
            keep: Indices of the patches to keep, int64 [B, K]; the others never enter the blocks.
            mask: True where a patch is replaced by the mask token, bool [B, P].

        Returns:
            Tokens [B, P, D] (or [B, K, D]), the pooled vector and the full grid.

        Raises:
            InputSizeError: If the backbone cannot take images of this size.
            TokenError: If patches are to be dropped or masked and the tower cannot do so.
        """
        pixel_values = self._checked_pixels(pixel_values)
        self._check_token_selection(pixel_values, keep, mask)
        if not self.is_vit:
            return encode_feature_map(self.model, pixel_values)
        embedded = vit.embed_patches(
            self.model,
            pixel_values,
            positions=self.positions,
            keep=keep,
            mask=mask,
            mask_token=self.mask_token,
        )
        checkpointing = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        with long_attention(embedded.tokens) if self.quick_attention else nullcontext():
            tokens = vit.run_blocks(self.model, embedded, checkpointing=checkpointing)
        return vit.to_features(self.model, tokens, embedded.grid)

    def last_layers(self, pixel_values: Tensor, count: int) -> list[PatchFeatures]:
        """Features of the last blocks: DINO's linear evaluation reads several.

        Args:
            pixel_values: Normalised images [B, 3, H, W].
            count: How many blocks, at least 1.

        Returns:
            One for each block, the shallowest first, each through the final norm and pooled as the
            last one; that is what ``forward`` gives.

        Raises:
            InputSizeError: If the backbone cannot take images of this size.
            TokenError: If the backbone is no vision transformer or has fewer blocks.
        """
        if not self.is_vit:
            raise TokenError(f"layers by themselves need a vision transformer; found {self.name}")
        if not 1 <= count <= len(self.model.blocks):
            raise TokenError(f"count: expected 1 to {len(self.model.blocks)}, found {count}")
        pixel_values = self._checked_pixels(pixel_values)
        embedded = vit.embed_patches(self.model, pixel_values, positions=self.positions)
        outputs = vit.last_outputs(self.model, embedded, count)
        return [vit.to_features(self.model, tokens, embedded.grid) for tokens in outputs]

    def attention_maps(self, pixel_values: Tensor) -> Tensor:
        """Where the pooled vector looks: attention of the last block, one map per head.

        Args:
            pixel_values: Normalised images [B, 3, H, W].

        Returns:
            Attention of the class token (or of SigLIP's attention pool) to the patches
            [B, heads, h, w], in [0, 1].

        Raises:
            TokenError: If the backbone is no vision transformer.
        """
        if not self.is_vit:
            raise TokenError(f"attention maps need a vision transformer; found {self.name}")
        pixel_values = self._checked_pixels(pixel_values)
        embedded = vit.embed_patches(self.model, pixel_values, positions=self.positions)
        attention = vit.last_attention(self.model, embedded)
        return attention.reshape(*attention.shape[:2], *embedded.grid)

    def suit_attention(self, device: torch.device, dtype: torch.dtype) -> None:
        """Computes attention in the way that is faster where the tower is going to run.

        That is torch's fused kernel, or, for bfloat16 on CPUs up to 1,024 patches, plain matrix
        products and a softmax: the same function, in memory that grows with the square of the
        number of patches.

        Args:
            device: Where the tower runs.
            dtype: Of its activations.
        """
        height, width = self.grid
        is_bf16_on_cpu = device.type == "cpu" and dtype == torch.bfloat16
        plain = is_bf16_on_cpu and height * width <= _PLAIN_ATTENTION_PATCHES
        if self.is_vit:
            for layer in vit.attention_layers(self.model):
                layer.fused_attn = not plain

    @torch.no_grad()
    def set_image_size(
        self, image_size: int | tuple[int, int], *, mode: PositionMode | None = None
    ) -> None:
        """Makes another input size the native one; learned positions are resampled for good.

        Args:
            image_size: New height and width in pixels.
            mode: Resampling rule; None takes the tower's own.

        Raises:
            InputSizeError: If the size does not fit the patch size.
        """
        new_size = _to_pair(image_size)
        self._check_multiple(new_size)
        if self.is_vit and getattr(self.model, "pos_embed", None) is not None:
            model = self.model
            rows = 0 if model.no_embed_class else model.num_prefix_tokens
            new_grid = (new_size[0] // self.patch_size, new_size[1] // self.patch_size)
            patches = resample_positions(
                model.pos_embed[:, rows:], self.grid, new_grid, mode=mode or self.positions
            )
            table = torch.cat([model.pos_embed[:, :rows], patches], dim=1)
            # Positions that are fixed, as MAE's, stay so.
            model.pos_embed = nn.Parameter(table, requires_grad=model.pos_embed.requires_grad)
        if self.is_vit:
            self.model.patch_embed.set_input_size(img_size=new_size)
        self.image_size = new_size

    def _checked_pixels(self, pixel_values: Tensor) -> Tensor:
        """The images in the tower's precision, cut to whole patches at the native size."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise InputSizeError(
                f"pixel_values must be [B, 3, H, W], found {list(pixel_values.shape)}"
            )
        size = (pixel_values.shape[2], pixel_values.shape[3])
        if self.is_vit and size == self.image_size:
            # Some models are published for sizes that leave part of a patch over (384 by 14).
            height, width = (cells * self.patch_size for cells in self.grid)
            pixel_values = pixel_values[:, :, :height, :width]
        else:
            self._check_multiple(size)
        return pixel_values.to(self.dtype)

    def _check_multiple(self, size: tuple[int, int]) -> None:
        step_height, step_width = self._step
        if size[0] % step_height or size[1] % step_width or min(size) == 0:
            raise InputSizeError(
                f"{self.name} takes images whose sides are multiples of "
                f"{step_height}x{step_width} pixels (height x width), found {size[0]}x{size[1]}"
            )

    @property
    def _step(self) -> tuple[int, int]:
        """What the sides of an image must be multiples of."""
        embed = getattr(self.model, "patch_embed", None)
        if embed is not None:
            height, width = embed.patch_size
            return int(height), int(width)
        # CLIP's attention pool lays its positions out for whole cells.
        return (self.patch_size,) * 2 if "clip" in self.name else (1, 1)

    def _check_token_selection(
        self, pixel_values: Tensor, keep: Tensor | None, mask: Tensor | None
    ) -> None:
        if keep is None and mask is None:
            return
        if not self.is_vit:
            raise TokenError(f"{self.name} has no patch tokens that can be dropped or masked")
        batch, _, height, width = pixel_values.shape
        patches = (height // self.patch_size) * (width // self.patch_size)
        if keep is not None and (keep.ndim != 2 or keep.shape[0] != batch):
            raise TokenError(f"keep must be [{batch}, K], found {list(keep.shape)}")
        if mask is None:
            return
        if self.mask_token is None:
            raise TokenError("masking patches needs a tower made with mask_token=True")
        if mask.shape != (batch, patches):
            raise TokenError(f"mask must be [{batch}, {patches}], found {list(mask.shape)}")


def _to_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
