"""Image backbones as transformers keeps ViT, DINOv2 and DINOv2 with registers.

Shapes: D tower width, R registers.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import GluMlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from owlkit.encoders.conv_stem import ConvStem
from owlkit.encoders.vision import VisionTower
from owlkit.errors import ConfigError
from owlkit.geometry import Preprocessing
from owlkit.models.backbone import ImageBackbone
from owlkit.models.checkpoint import plain_state, replaced_folder
from owlkit.models.interop import parts

_STEM = {
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_BLOCK = re.compile(r"^blocks\.(\d+)\.(.+)\.(weight|bias|gamma)$")
_VIT_PARTS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_DINOV2_PARTS = {**_VIT_PARTS, "norm1": "norm1", "norm2": "norm2"}
_QKV = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
_GATED = ("mlp.gate_proj", "mlp.up_proj")
# PIL's numbers of the kernels, as image processors keep them.
_RESAMPLE = {"bilinear": 2, "bicubic": 3}


def save_transformers(model: ImageBackbone, folder: Path) -> None:
    """Writes a folder of transformers; see ``ImageBackbone.save_transformers``."""
    vision = model.vision
    faults = [*_tower_faults(vision), *_preprocessing_faults(model.preprocessing)]
    if faults:
        raise _refusal(faults)
    twin = _make_twin(vision)
    try:
        twin.load_state_dict(_to_transformers(vision, twin), assign=True)
    except RuntimeError as error:
        raise _refusal([str(error)]) from error
    _warn_about_positions(vision)
    with replaced_folder(folder, marker=None) as new:
        twin.save_pretrained(new)
        _image_processor(model.preprocessing).save_pretrained(new)


def _refusal(faults: list[str]) -> ConfigError:
    return ConfigError("\n  ".join(["transformers' classes cannot hold this backbone:", *faults]))


def _tower_faults(vision: VisionTower) -> list[str]:
    """Why none of the three classes computes what the tower does."""
    if not isinstance(vision.model, VisionTransformer):
        return [f"image tower: expected a plain vision transformer, found {vision.name}"]
    model: Any = vision.model
    faults = []
    if model.cls_token is None or model.global_pool != "token":
        faults.append(f"pooling: expected the class token, found {model.global_pool!r}")
    if model.pos_embed is None:
        faults.append("positions: expected a table, found none")
    if not isinstance(model.norm_pre, nn.Identity):
        faults.append("expected no norm before the blocks, found CLIP's")
    if isinstance(model.patch_embed, ConvStem):
        faults.append("stem: expected one convolution, found 'conv'")
    if vision.image_size[0] != vision.image_size[1]:
        faults.append(f"image_size: expected a square, found {vision.image_size}")
    needed = {"SiLU"} if _is_gated(vision) else set(parts.ACTIVATIONS)
    if parts.activation(vision) not in needed:
        faults.append(f"activation: expected {sorted(needed)}, found {parts.activation(vision)}")
    if not _is_plain(vision) and _dinov2_ratio(vision) is None:
        hidden = model.blocks[0].mlp.fc1.out_features
        faults.append(f"mlp_ratio: expected a whole number, found a layer of {hidden} outputs")
    return faults


def _preprocessing_faults(preprocessing: Preprocessing) -> list[str]:
    if preprocessing.fit == "pad" or preprocessing.resample not in _RESAMPLE:
        return [
            "preprocessing: expected fit squash or crop with resample bicubic or bilinear, found "
            f"{preprocessing.fit} with {preprocessing.resample}"
        ]
    return []


def _has_scale(vision: VisionTower) -> bool:
    return isinstance(vision.model.blocks[0].ls1, LayerScale)


def _is_gated(vision: VisionTower) -> bool:
    return isinstance(vision.model.blocks[0].mlp, GluMlp)


def _is_plain(vision: VisionTower) -> bool:
    """Whether ViT's class is enough."""
    return not (_has_scale(vision) or _is_gated(vision) or vision.model.reg_token is not None)


def _dinov2_ratio(vision: VisionTower) -> int | None:
    """The whole number from which DINOv2's classes find the width of the MLP, if there is one."""
    hidden = vision.model.blocks[0].mlp.fc1.out_features
    for ratio in range(1, 17):
        plain = vision.width * ratio
        # A gated layer keeps two thirds, rounded up to a multiple of 8; both halves are stacked.
        found = 2 * ((int(plain * 2 / 3) + 7) // 8 * 8) if _is_gated(vision) else plain
        if found == hidden:
            return ratio
    return None


def _make_twin(vision: VisionTower) -> Any:
    """The untrained model of transformers, without memory for its weights."""
    block = vision.model.blocks[0]
    common: dict[str, Any] = {
        "hidden_size": vision.width,
        "num_hidden_layers": len(vision.model.blocks),
        "num_attention_heads": block.attn.num_heads,
        "image_size": vision.image_size[0],
        "patch_size": vision.patch_size,
        # The gated MLP has its own and does not look at this one.
        "hidden_act": "gelu" if _is_gated(vision) else parts.ACTIVATIONS[parts.activation(vision)],
        "layer_norm_eps": vision.model.norm.eps,
        "qkv_bias": block.attn.qkv.bias is not None,
    }
    with torch.device("meta"):
        if _is_plain(vision):
            config = ViTConfig(intermediate_size=block.mlp.fc1.out_features, **common)
            return ViTModel(config, add_pooling_layer=False)
        common |= {"mlp_ratio": _dinov2_ratio(vision), "use_swiglu_ffn": _is_gated(vision)}
        if vision.model.reg_token is None:
            return Dinov2Model(Dinov2Config(**common))
        registers = vision.model.reg_token.shape[1]
        return Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(num_register_tokens=registers, **common)
        )


def _to_transformers(vision: VisionTower, twin: Any) -> dict[str, Tensor]:
    """The tower's weights under the names of transformers' class."""
    plain = _is_plain(vision)
    converted = _prefix_tokens(vision)
    for key, value in plain_state(vision.model).items():
        block = _BLOCK.match(key)
        if block:
            prefix = f"layers.{block[1]}." if plain else f"encoder.layer.{block[1]}."
            entries = _block_entries(vision, block[2], block[3], value)
            converted |= {prefix + name: part for name, part in entries.items()}
        elif key not in ("cls_token", "pos_embed", "reg_token"):
            converted[_STEM.get(key, key)] = value
    if not plain:
        token = torch.zeros(vision.width) if vision.mask_token is None else vision.mask_token
        converted["embeddings.mask_token"] = token[None]
        for key, expected in twin.state_dict().items():
            if key.endswith(".lambda1") and not _has_scale(vision):
                converted[key] = torch.ones(expected.shape)
    return {key: value.detach().cpu().float().contiguous() for key, value in converted.items()}


def _block_entries(
    vision: VisionTower, part: str, kind: str, value: Tensor
) -> Mapping[str, Tensor]:
    """One weight of a block by its names in transformers, where it may be taken apart."""
    names = _VIT_PARTS if _is_plain(vision) else _DINOV2_PARTS
    if kind == "gamma":
        return {f"layer_scale{part[-1]}.lambda1": value}
    if part == "attn.qkv":
        stacked: tuple[str, ...] = _QKV
    elif part == "mlp.fc1" and _is_gated(vision):
        stacked = _GATED
    elif part == "mlp.fc2" and _is_gated(vision):
        stacked = ("mlp.down_proj",)
    else:
        stacked = (names.get(part, part),)
    pieces = value.chunk(len(stacked))
    return {f"{name}.{kind}": piece for name, piece in zip(stacked, pieces, strict=True)}


def _prefix_tokens(vision: VisionTower) -> dict[str, Tensor]:
    """Class token, registers and positions.

    Transformers has a position for the class token and none for registers. Where timm has it the
    other way round, a position is zero, or part of its token.
    """
    model = vision.model
    rows = 0 if model.no_embed_class else model.num_prefix_tokens
    prefix, patches = model.pos_embed[:, :rows], model.pos_embed[:, rows:]
    first = prefix[:, :1] if rows else torch.zeros_like(patches[:, :1])
    tokens = {
        "embeddings.cls_token": model.cls_token,
        "embeddings.position_embeddings": torch.cat([first, patches], dim=1),
    }
    if model.reg_token is not None:
        registers = model.reg_token + prefix[:, 1:] if rows else model.reg_token
        tokens["embeddings.register_tokens"] = registers
    return tokens


def _warn_about_positions(vision: VisionTower) -> None:
    theirs = "bicubic" if vision.model.reg_token is None else "bicubic_antialias"
    if vision.positions != theirs:
        warnings.warn(
            f"away from {vision.image_size[0]} pixels transformers resamples positions by "
            f"{theirs!r}, not by {vision.positions!r}",
            UserWarning,
            stacklevel=4,
        )


def _image_processor(preprocessing: Preprocessing) -> Any:
    height, width = preprocessing.size
    common: dict[str, Any] = {
        "resample": _RESAMPLE[preprocessing.resample],
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    if preprocessing.fit == "squash":
        return ViTImageProcessor(size={"height": height, "width": width}, **common)
    return BitImageProcessor(
        size={"shortest_edge": height}, crop_size={"height": height, "width": width}, **common
    )
