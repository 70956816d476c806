"""Image towers in Hugging Face's layouts: configuration and weights, to timm and back.

Two families of names exist: CLIP's (CLIP, SigLIP, OWL-ViT, OWLv2) and ViT's (ViT and DINO, DINOv2,
DINOv2 with registers), the latter in an older and a newer spelling. timm fuses query, key and value
into one matrix; everything else is a renaming, so conversions lose nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    Owlv2VisionConfig,
    OwlViTVisionConfig,
    SiglipVisionConfig,
    ViTConfig,
)

from owlkit.encoders.positions import PositionMode
from owlkit.encoders.timm_models import Override
from owlkit.encoders.vision import VisionTower
from owlkit.errors import CheckpointError

_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
# The configuration classes fill in what config.json, as older releases wrote it, leaves out.
_CONFIG_CLASSES: dict[str, Any] = {
    "clip_vision_model": CLIPVisionConfig,
    "owlvit_vision_model": OwlViTVisionConfig,
    "owlv2_vision_model": Owlv2VisionConfig,
    "siglip_vision_model": SiglipVisionConfig,
    "vit": ViTConfig,
    "dinov2": Dinov2Config,
    "dinov2_with_registers": Dinov2WithRegistersConfig,
}

_CLIP_STEM = {
    "embeddings.class_embedding": "cls_token",
    "embeddings.patch_embedding.weight": "patch_embed.proj.weight",
    "embeddings.patch_embedding.bias": "patch_embed.proj.bias",
    "embeddings.position_embedding.weight": "pos_embed",
    "post_layernorm.weight": "norm.weight",
    "post_layernorm.bias": "norm.bias",
    "head.probe": "attn_pool.latent",
    "head.attention.out_proj.weight": "attn_pool.proj.weight",
    "head.attention.out_proj.bias": "attn_pool.proj.bias",
    "head.layernorm.weight": "attn_pool.norm.weight",
    "head.layernorm.bias": "attn_pool.norm.bias",
    "head.mlp.fc1.weight": "attn_pool.mlp.fc1.weight",
    "head.mlp.fc1.bias": "attn_pool.mlp.fc1.bias",
    "head.mlp.fc2.weight": "attn_pool.mlp.fc2.weight",
    "head.mlp.fc2.bias": "attn_pool.mlp.fc2.bias",
}
# CLIP's own towers misspell the name that OWL-ViT's spell right.
_PRE_NORM_NAMES = ("pre_layernorm", "pre_layrnorm")
_VIT_STEM = {
    "embeddings.cls_token": "cls_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "embeddings.position_embeddings": "pos_embed",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_CLIP_BLOCK = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.out_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_VIT_BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.o_proj": "attn.proj",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
    "mlp.down_proj": "mlp.fc2",
}
# Parts that timm stacks into one matrix: the stacked name and the order inside it.
_STACKED = {
    "self_attn.q_proj": ("attn.qkv", 0),
    "self_attn.k_proj": ("attn.qkv", 1),
    "self_attn.v_proj": ("attn.qkv", 2),
    "attention.q_proj": ("attn.qkv", 0),
    "attention.k_proj": ("attn.qkv", 1),
    "attention.v_proj": ("attn.qkv", 2),
    "attention.attention.query": ("attn.qkv", 0),
    "attention.attention.key": ("attn.qkv", 1),
    "attention.attention.value": ("attn.qkv", 2),
    "mlp.gate_proj": ("mlp.fc1", 0),
    "mlp.up_proj": ("mlp.fc1", 1),
}
_BLOCK_KEY = re.compile(r"^(?:encoder\.)?layers?\.(\d+)\.(.+)\.(weight|bias|lambda1)$")


def vision_tower_from_config(config: Mapping[str, Any]) -> VisionTower:
    """Builds an untrained tower with the sizes of a Hugging Face vision configuration.

    Args:
        config: The vision part of a config.json, with ``model_type``.

    Raises:
        CheckpointError: If the model type or its activation is not supported.
    """
    model_type = str(config.get("model_type"))
    if model_type not in _CONFIG_CLASSES:
        known = ", ".join(_CONFIG_CLASSES)
        raise CheckpointError(f"expected a vision model of type {known}; found {model_type!r}")
    try:
        values = _CONFIG_CLASSES[model_type](**config).to_dict()
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise CheckpointError(f"{model_type}: not a valid configuration: {error}") from error
    overrides = _common_overrides(values)
    if model_type == "siglip_vision_model":
        pool = "map" if values.get("vision_use_head", True) else "avg"
        overrides |= {"class_token": False, "global_pool": pool, "fc_norm": False}
    elif model_type.startswith("dinov2"):
        overrides |= _dinov2_overrides(values)
    elif model_type != "vit":
        overrides |= {"pre_norm": True}
    with_registers = model_type == "dinov2_with_registers"
    positions: PositionMode = "bicubic_antialias" if with_registers else "bicubic"
    return VisionTower(
        "vit_base_patch16_224",
        image_size=values["image_size"],
        positions=positions,
        mask_token=model_type.startswith("dinov2"),
        overrides=overrides,
    )


def _common_overrides(values: Mapping[str, Any]) -> dict[str, Override]:
    activation = values["hidden_act"]
    if activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise CheckpointError(f"hidden_act: expected one of {known}; found {activation!r}")
    width = values["hidden_size"]
    return {
        "patch_size": values["patch_size"],
        "in_chans": values["num_channels"],
        "embed_dim": width,
        "depth": values["num_hidden_layers"],
        "num_heads": values["num_attention_heads"],
        "mlp_ratio": _ratio(values.get("intermediate_size", 4 * width), width),
        "qkv_bias": values.get("qkv_bias", True),
        "act_layer": _ACTIVATIONS[activation],
        "norm_eps": values["layer_norm_eps"],
    }


def _dinov2_overrides(values: Mapping[str, Any]) -> dict[str, Override]:
    width = values["hidden_size"]
    hidden = int(width * values["mlp_ratio"])
    overrides: dict[str, Override] = {"init_values": values.get("layerscale_value", 1.0)}
    if values["use_swiglu_ffn"]:
        # DINOv2 keeps the parameter count of a plain MLP and rounds up to a multiple of 8.
        hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)
        overrides |= {"mlp": "swiglu", "act_layer": "silu"}
    overrides["mlp_ratio"] = _ratio(hidden, width)
    if values["model_type"] == "dinov2_with_registers":
        overrides |= {"reg_tokens": values["num_register_tokens"], "no_embed_class": True}
    return overrides


def _ratio(hidden: int, width: int) -> float:
    """A ratio whose product with the width is cut to exactly the hidden width."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def to_timm_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames and stacks the weights of a vision model for :class:`VisionTower`.

    Args:
        state: Weights whose keys start behind the model's own prefix (``vision_model.``, ``vit.``).

    Returns:
        Weights with the tower's keys. What the tower does not have (position ids, ViT's tanh
        pooler) is left out; keys that are not understood are kept, so that loading names them.
    """
    converted: dict[str, Tensor] = {}
    stacked: dict[str, dict[int, Tensor]] = {}
    for key, value in state.items():
        if key.endswith("position_ids") or key.startswith("pooler."):
            continue
        block = _BLOCK_KEY.match(key)
        if block:
            _convert_block_entry(block, value, converted, stacked)
        else:
            _convert_stem_entry(key, value, converted)
    for name, parts in stacked.items():
        _stack(name, parts, converted)
    _fold_class_position(converted)
    return converted


def _stack(name: str, parts: Mapping[int, Tensor], converted: dict[str, Tensor]) -> None:
    """Stacks query, key and value (or gate and value) if all are there.

    Otherwise each part stays by itself, so that loading says which one is missing.
    """
    order = ("query", "key", "value") if ".attn." in name else ("gate", "value")
    if len(parts) == len(order):
        converted[f"model.{name}"] = torch.cat([parts[index] for index in range(len(order))])
    else:
        for index, part in parts.items():
            converted[f"model.{name} ({order[index]} alone)"] = part


def _convert_block_entry(
    block: re.Match[str],
    value: Tensor,
    converted: dict[str, Tensor],
    stacked: dict[str, dict[int, Tensor]],
) -> None:
    index, part, kind = block.groups()
    if part in _STACKED:
        name, order = _STACKED[part]
        stacked.setdefault(f"blocks.{index}.{name}.{kind}", {})[order] = value
    elif kind == "lambda1":
        converted[f"model.blocks.{index}.ls{part[-1]}.gamma"] = value
    else:
        name = {**_CLIP_BLOCK, **_VIT_BLOCK}.get(part, part)
        converted[f"model.blocks.{index}.{name}.{kind}"] = value


def _convert_stem_entry(key: str, value: Tensor, converted: dict[str, Tensor]) -> None:
    stem, _, kind = key.rpartition(".")
    if stem in _PRE_NORM_NAMES:
        converted[f"model.norm_pre.{kind}"] = value
    elif key.startswith("head.attention.in_proj_"):
        kind = key.removeprefix("head.attention.in_proj_")
        width = value.shape[0] // 3
        converted[f"model.attn_pool.q.{kind}"] = value[:width]
        converted[f"model.attn_pool.kv.{kind}"] = value[width:]
    elif key == "embeddings.mask_token":
        converted["mask_token"] = value.reshape(-1)
    else:
        name = {**_CLIP_STEM, **_VIT_STEM}.get(key, key)
        if name in ("cls_token", "pos_embed"):
            value = value.reshape(1, -1, value.shape[-1])
        converted[f"model.{name}"] = value


def _fold_class_position(converted: dict[str, Tensor]) -> None:
    """With registers, timm keeps no position for the class token: it is part of the token."""
    if "model.reg_token" in converted and "model.pos_embed" in converted:
        positions = converted["model.pos_embed"]
        converted["model.cls_token"] = converted["model.cls_token"] + positions[:, :1]
        converted["model.pos_embed"] = positions[:, 1:]


def from_timm_state(tower: VisionTower, *, pre_norm_name: str) -> dict[str, Tensor]:
    """The tower's weights under CLIP's Hugging Face names, without a prefix.

    Args:
        tower: A vision transformer with class token and pre-norm, as CLIP's and OWL-ViT's.
        pre_norm_name: ``pre_layrnorm`` (sic) for CLIP, ``pre_layernorm`` for OWL-ViT and OWLv2.

    Raises:
        CheckpointError: If the tower has parts that this layout cannot hold.
    """
    stem = {timm_name: name for name, timm_name in _CLIP_STEM.items()}
    stem |= {f"norm_pre.{kind}": f"{pre_norm_name}.{kind}" for kind in ("weight", "bias")}
    block = {timm_name: name for name, timm_name in _CLIP_BLOCK.items()}
    converted: dict[str, Tensor] = {}
    unknown = []
    for key, value in tower.model.state_dict().items():
        match = re.match(r"^blocks\.(\d+)\.(.+)\.(weight|bias)$", key)
        if match and match[2] == "attn.qkv":
            for name, part in zip("qkv", value.chunk(3), strict=True):
                target = f"encoder.layers.{match[1]}.self_attn.{name}_proj.{match[3]}"
                converted[target] = part.clone()
        elif match and match[2] in block:
            converted[f"encoder.layers.{match[1]}.{block[match[2]]}.{match[3]}"] = value
        elif key in stem:
            unbatched = {"cls_token": (-1,), "pos_embed": value.shape[1:]}
            converted[stem[key]] = value.reshape(unbatched.get(key, value.shape))
        else:
            unknown.append(key)
    if unknown:
        raise CheckpointError(
            f"{tower.name}: no place in the CLIP layout for {', '.join(sorted(unknown))}"
        )
    return converted
