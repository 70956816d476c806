"""Plain vision transformers, block by block, so that tokens can be dropped, masked or watched.

Works on timm's ``VisionTransformer`` (CLIP, SigLIP, DINO, DINOv2, plain) and ``Eva`` (DINOv3 and
other rotary models) through their documented parts: patch embedding, position table, class and
register tokens, pre-norm, blocks, norm, attention pool.

Shapes: B images, P patches, K kept patches, T = prefix + K tokens, D width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from owlkit.encoders.positions import PositionMode, resample_positions
from owlkit.structures import PatchFeatures


@dataclass(frozen=True)
class EmbeddedPatches:
    """Tokens on their way into the blocks.

    Attributes:
        tokens: Class and register tokens, then patches [B, T, D].
        rope: Rotary embedding of the patches for models that have one, else None.
        grid: Height and width of the full patch grid.
    """

    tokens: Tensor
    rope: Tensor | None
    grid: tuple[int, int]


def embed_patches(
    model: Any,
    pixel_values: Tensor,
    *,
    positions: PositionMode,
    keep: Tensor | None = None,
    mask: Tensor | None = None,
    mask_token: Tensor | None = None,
) -> EmbeddedPatches:
    """Patch embedding, mask token, positions, dropping, prefix tokens and pre-norm, in this order.

    Args:
        model: A timm vision transformer created with ``dynamic_img_size=True``.
        pixel_values: Normalised images [B, 3, H, W].
        positions: How the position table reaches another grid.
        keep: Indices of the patches to keep, per image [B, K].
        mask: True where the patch is replaced by the mask token [B, P].
        mask_token: The token that replaces masked patches [D].

    Returns:
        The tokens that enter the first block.
    """
    patches = model.patch_embed(pixel_values)  # [B, h, w, D]
    batch, height, width, _ = patches.shape
    patches = patches.flatten(1, 2)  # [B, P, D]
    if mask is not None and mask_token is not None:
        patches = torch.where(mask[..., None], mask_token.to(patches.dtype), patches)
    prefix_positions, patch_positions = _split_positions(model, (height, width), positions)
    if patch_positions is not None:
        patches = patches + patch_positions
    rope = model.rope.get_embed(shape=(height, width)) if _has_rope(model) else None
    if keep is not None:
        patches = _gather_rows(patches, keep)
        if rope is not None:
            rope = _gather_rows(rope.expand(batch, -1, -1), keep)[:, None]  # [B, 1, K, dim]
    prefix = _prefix_tokens(model, prefix_positions)
    if prefix is not None:
        patches = torch.cat([prefix.expand(batch, -1, -1), patches], dim=1)
    return EmbeddedPatches(tokens=model.norm_pre(patches), rope=rope, grid=(height, width))


def _split_positions(
    model: Any, grid: tuple[int, int], mode: PositionMode
) -> tuple[Tensor | None, Tensor | None]:
    """The rows of the position table for the prefix tokens and, at this grid, for the patches."""
    table = model.pos_embed
    if table is None:
        return None, None
    rows = 0 if model.no_embed_class else model.num_prefix_tokens
    prefix = table[:, :rows] if rows else None
    patches = resample_positions(table[:, rows:], model.patch_embed.grid_size, grid, mode=mode)
    return prefix, patches


def _prefix_tokens(model: Any, positions: Tensor | None) -> Tensor | None:
    tokens = [token for token in (model.cls_token, model.reg_token) if token is not None]
    if not tokens:
        return None
    prefix = torch.cat(tokens, dim=1)
    return prefix if positions is None else prefix + positions


def _has_rope(model: Any) -> bool:
    return getattr(model, "rope", None) is not None


def _gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Picks rows [B, K, D] of [B, P, D] by index [B, K]."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))


def run_blocks(
    model: Any, embedded: EmbeddedPatches, *, last: int | None = None, checkpointing: bool = False
) -> Tensor:
    """Runs the transformer blocks on embedded patches.

    Args:
        model: The timm model.
        embedded: Output of :func:`embed_patches`.
        last: Stop before this block; None runs all.
        checkpointing: Recompute each block in the backward pass instead of storing its activations.

    Returns:
        Tokens before the final norm [B, T, D].
    """
    tokens = embedded.tokens
    for block in model.blocks[:last]:
        if checkpointing:
            tokens = checkpoint(_run_block, block, tokens, embedded.rope, use_reentrant=False)
        else:
            tokens = _run_block(block, tokens, embedded.rope)
    return tokens


def last_outputs(model: Any, embedded: EmbeddedPatches, count: int) -> list[Tensor]:
    """Outputs of the last ``count`` blocks before the final norm, shallowest first [B, T, D]."""
    tokens = run_blocks(model, embedded, last=-count)
    outputs = []
    for block in model.blocks[-count:]:
        tokens = _run_block(block, tokens, embedded.rope)
        outputs.append(tokens)
    return outputs


def _run_block(block: nn.Module, tokens: Tensor, rope: Tensor | None) -> Tensor:
    output: Tensor = block(tokens) if rope is None else block(tokens, rope=rope)
    return output


def to_features(model: Any, tokens: Tensor, grid: tuple[int, int]) -> PatchFeatures:
    """Final norm, then patches and the pooled vector.

    The vector is pooled as the model pools before its classifier: class token (CLIP, DINO), mean,
    or attention pool (SigLIP).
    """
    normed = model.norm(tokens)
    pooled = model.forward_head(normed, pre_logits=True)
    if isinstance(model.norm, nn.Identity):
        # Models made for average pooling keep their last norm behind the pool; patches need it.
        normed = model.fc_norm(tokens)
    return PatchFeatures(tokens=normed[:, model.num_prefix_tokens :], pooled=pooled, grid=grid)


def attention_layers(module: nn.Module) -> list[Any]:
    """The parts of a timm module that choose between torch's fused kernel and plain products."""
    return [part for part in module.modules() if hasattr(part, "fused_attn")]


@contextmanager
def _fused(module: nn.Module) -> Iterator[None]:
    """Lets a module's attention go through torch's fused kernel, whatever it is set to."""
    layers = attention_layers(module)
    before = [layer.fused_attn for layer in layers]
    try:
        for layer in layers:
            layer.fused_attn = True
        yield
    finally:
        for layer, was_fused in zip(layers, before, strict=True):
            layer.fused_attn = was_fused


def last_attention(model: Any, embedded: EmbeddedPatches) -> Tensor:
    """Attention of the pooling token to the patches: in the attention pool or in the last block.

    Queries and keys are recorded as they enter the fused kernel, so only one row of the attention
    matrix is computed again.

    Returns:
        Probabilities [B, heads, P]. Over all tokens a row sums to 1; what goes to class and
        register tokens is left out here. Without a class token or attention pool: the mean over
        the patches' own rows.
    """
    tokens = run_blocks(model, embedded, last=-1)
    recorder = _AttentionRecorder()
    if model.attn_pool is not None:
        tokens = _run_block(model.blocks[-1], tokens, embedded.rope)
        with _fused(model.attn_pool), recorder:
            to_features(model, tokens, embedded.grid)
        return _attention_rows(recorder, rows=slice(0, 1), first_key=0)
    with _fused(model.blocks[-1]), recorder:
        _run_block(model.blocks[-1], tokens, embedded.rope)
    rows = slice(0, 1) if model.cls_token is not None else slice(None)
    return _attention_rows(recorder, rows=rows, first_key=model.num_prefix_tokens)


class _AttentionRecorder(TorchFunctionMode):
    """Remembers the queries and keys of the last fused attention call."""

    query: Tensor
    key: Tensor

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.query, self.key = args[0], args[1]
        return func(*args, **(kwargs or {}))


def _attention_rows(recorder: _AttentionRecorder, *, rows: slice, first_key: int) -> Tensor:
    query = recorder.query[:, :, rows].float()  # [B, heads, rows, head width]
    scores = query @ recorder.key.float().transpose(-2, -1) * query.shape[-1] ** -0.5
    attention: Tensor = scores.softmax(dim=-1).mean(dim=2)[..., first_key:]  # [B, heads, P]
    return attention
