"""Weights to start training from: as published, not as the libraries default to."""

from typing import Any

import torch
from timm.layers import weight_init
from timm.layers.attention_pool2d import AttentionPool2d
from torch import nn

from owlkit.encoders.positions import sincos_positions
from owlkit.encoders.text import TextTower
from owlkit.encoders.vision import VisionTower
from owlkit.errors import ConfigError


@torch.no_grad()
def init_clip_vision(tower: VisionTower) -> None:
    """Initialises an image tower as CLIP's [0].

    Vision transformers with CLIP's norm before the blocks: class token and positions ~ N(0, 1/D);
    blocks as ``nn.MultiheadAttention`` and ``nn.Linear`` start (Xavier-uniform in-projection of the
    stacked matrix, zero attention biases). CLIP's ResNets: attention pool ~ N(0, 1/C), the last
    norm of each bottleneck at zero. Other backbones keep timm's own initialisation: truncated
    normal 0.02 for plain vision transformers, as DINO's.

    - [0]: Learning Transferable Visual Models From Natural Language Supervision, 2021,
      https://arxiv.org/abs/2103.00020
    """
    for module in tower.model.modules():
        if isinstance(module, AttentionPool2d):
            _init_attention_pool(module)
    if tower.is_vit and not isinstance(tower.model.norm_pre, nn.Identity):
        _init_vit(tower.model, tower.width)


def _init_attention_pool(pool: Any) -> None:
    for name in ("q", "k", "v", "proj"):
        layer = getattr(pool, name)
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)


def _init_vit(model: Any, width: int) -> None:
    model.patch_embed.proj.reset_parameters()
    for token in (model.cls_token, model.pos_embed):
        if token is not None:
            nn.init.normal_(token, std=width**-0.5)
    for block in model.blocks:
        block.attn.proj.reset_parameters()
        nn.init.zeros_(block.attn.proj.bias)
        if isinstance(getattr(block.attn, "qkv", None), nn.Linear):
            nn.init.xavier_uniform_(block.attn.qkv.weight)
            if block.attn.qkv.bias is not None:
                nn.init.zeros_(block.attn.qkv.bias)
        for layer in (block.mlp.fc1, block.mlp.fc2):
            layer.reset_parameters()


@torch.no_grad()
def init_mae_vision(tower: VisionTower) -> None:
    """Initialises an image tower as MAE's encoder [0].

    Linear layers Xavier-uniform with zero biases, the patch embedding too, as a matrix; class token
    (and registers) N(0, 0.02), the number being the standard deviation. Positions are sines and
    cosines, zero for the class token, and are not trained.

    - [0]: Masked Autoencoders Are Scalable Vision Learners, 2021, https://arxiv.org/abs/2111.06377

    Raises:
        ConfigError: If the tower is no vision transformer with a position table.
    """
    model = tower.model
    if not tower.is_vit or model.pos_embed is None:
        raise ConfigError(
            "MAE's initialisation: expected a vision transformer with positions, "
            f"found {tower.name}"
        )
    xavier_init_linears(model)
    projection = model.patch_embed.proj.weight
    nn.init.xavier_uniform_(projection.view(projection.shape[0], -1))
    for token in (model.cls_token, model.reg_token):
        if token is not None:
            nn.init.normal_(token, std=0.02)
    patches = sincos_positions(tower.grid, tower.width)
    model.pos_embed.zero_()
    model.pos_embed[:, -len(patches) :] = patches
    model.pos_embed.requires_grad_(False)


def xavier_init_linears(module: nn.Module) -> None:
    """Draws every linear layer of a module Xavier-uniform, with zero bias: MAE's initialisation."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@torch.no_grad()
def init_clip_text(tower: TextTower) -> None:
    """Initialises a CLIP text tower as published [0].

    With width w and L blocks: tokens N(0, 0.02), positions N(0, 0.01), query, key and value
    N(0, w^-1/2), attention output and second MLP layer N(0, w^-1/2 (2L)^-1/2), first MLP layer
    N(0, (2w)^-1/2), projection N(0, w^-1/2) (the second number is the standard deviation); all
    biases zero. transformers' own default swaps the scales of the attention's in- and
    out-projection.

    - [0]: Learning Transferable Visual Models From Natural Language Supervision, 2021,
      https://arxiv.org/abs/2103.00020
    """
    config = tower.model.config
    width, depth = config.hidden_size, config.num_hidden_layers
    inward, outward = width**-0.5, width**-0.5 * (2 * depth) ** -0.5
    deviations = {
        "token_embedding.weight": 0.02,
        "position_embedding.weight": 0.01,
        "q_proj.weight": inward,
        "k_proj.weight": inward,
        "v_proj.weight": inward,
        "out_proj.weight": outward,
        "fc1.weight": (2 * width) ** -0.5,
        "fc2.weight": outward,
    }
    for name, parameter in tower.model.named_parameters():
        for suffix, deviation in deviations.items():
            if name.endswith(suffix):
                nn.init.normal_(parameter, std=deviation)
        if name.endswith(("_proj.bias", "fc1.bias", "fc2.bias")):
            nn.init.zeros_(parameter)
    if isinstance(tower.projection, nn.Linear):
        nn.init.normal_(tower.projection.weight, std=width**-0.5)


def init_lecun_normal(layer: nn.Linear) -> None:
    """Truncated normal with variance 1 / fan-in and zero bias: Flax's default for dense layers."""
    timm_init: Any = weight_init
    timm_init.lecun_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
