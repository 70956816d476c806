"""Image backbones as timm's hub keeps models: config.json and weights under timm's own names."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.layers.layer_scale import LayerScale

from owlkit.encoders.timm_models import timm_arguments
from owlkit.encoders.vision import VisionTower
from owlkit.errors import ConfigError
from owlkit.geometry import Preprocessing
from owlkit.models.backbone import ImageBackbone
from owlkit.models.checkpoint import plain_state, replaced_folder
from owlkit.models.interop import parts

_CROP_MODES = {"crop": "center", "squash": "squash"}
_KERNELS = ("bicubic", "bilinear")
# timm's architectures with gated MLPs; a file cannot name the layer itself.
_GATED = "vit_giant_patch14_dinov2"
_GATED_WITH_REGISTERS = "vit_giant_patch14_reg4_dinov2"


def save_timm(model: ImageBackbone, folder: Path) -> None:
    """Writes a folder of timm; see ``ImageBackbone.save_timm``."""
    vision, preprocessing = model.vision, model.preprocessing
    if preprocessing.fit not in _CROP_MODES or preprocessing.resample not in _KERNELS:
        raise ConfigError(
            "timm's preprocessing: expected fit squash or crop with resample bicubic or bilinear, "
            f"found {preprocessing.fit} with {preprocessing.resample}"
        )
    name, arguments = _architecture(vision)
    _check_twin(vision, name, arguments)
    config = {
        "architecture": name,
        "num_classes": 0,
        "num_features": vision.width,
        "global_pool": vision.model.global_pool if vision.is_vit else arguments.get("global_pool"),
        "model_args": arguments,
        "pretrained_cfg": _pretrained_config(vision, preprocessing),
    }
    with replaced_folder(folder, marker=None) as new:
        (new / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        state = {key: value.contiguous() for key, value in plain_state(vision.model).items()}
        save_file(state, new / "model.safetensors", metadata={"format": "pt"})


def _architecture(vision: VisionTower) -> tuple[str, dict[str, Any]]:
    """Name and constructor arguments, ready for JSON, from which timm builds the tower's model."""
    arguments = timm_arguments(vision.name, vision.image_size, vision.overrides)
    if "embed_layer" in arguments:
        raise ConfigError("timm: expected one convolution for patches, found the stem 'conv'")
    # timm's default; any other number shows when the twin is checked.
    arguments.pop("norm_layer", None)
    if arguments.pop("mlp_layer", None) is None:
        return vision.name, arguments
    return _gated_architecture(vision, arguments)


def _gated_architecture(
    vision: VisionTower, arguments: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The same on top of a published architecture with gated MLPs, with every size spelled out."""
    model = vision.model
    block = model.blocks[0]
    registers = model.reg_token is not None
    hidden = block.mlp.fc1.out_features
    spelled = {
        "patch_size": vision.patch_size,
        "embed_dim": vision.width,
        "depth": len(model.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": (hidden + 0.5) / vision.width,
        # Where learning starts; 0 stands for no scale.
        "init_values": 1e-5 if isinstance(block.ls1, LayerScale) else 0.0,
        "qkv_bias": block.attn.qkv.bias is not None,
        "reg_tokens": model.reg_token.shape[1] if registers else 0,
        "class_token": model.cls_token is not None,
        "no_embed_class": bool(model.no_embed_class),
        "global_pool": model.global_pool,
        "act_layer": parts.ACTIVATIONS.get(parts.activation(vision)),
    }
    return _GATED_WITH_REGISTERS if registers else _GATED, {**arguments, **spelled}


def _check_twin(vision: VisionTower, name: str, arguments: dict[str, Any]) -> None:
    """Refuses what timm would build differently, without making its weights.

    Raises:
        ConfigError: Lists what differs.
    """
    with torch.device("meta"):
        twin: Any = timm.create_model(name, **arguments)
    theirs = {key: list(value.shape) for key, value in twin.state_dict().items()}
    ours = {key: list(value.shape) for key, value in plain_state(vision.model).items()}
    faults = [
        f"{key}: timm would have {theirs.get(key)}, found {ours.get(key)}"
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key) != ours.get(key)
    ]
    if vision.is_vit:
        other, own = _numerics(twin), _numerics(vision.model)
        faults += [
            f"{what}: timm would have {other[what]}, found {own[what]}"
            for what in own
            if other[what] != own[what]
        ]
    if faults:
        listing = "\n  ".join(faults)
        raise ConfigError(f"timm's constructor of {name} cannot be told of:\n  {listing}")


def _numerics(model: Any) -> dict[str, Any]:
    """What a vision transformer computes with and its weights do not show."""
    block = model.blocks[0]
    return {"norm_eps": block.norm1.eps, "activation": type(block.mlp.act).__name__}


def _pretrained_config(vision: VisionTower, preprocessing: Preprocessing) -> dict[str, Any]:
    published = vision.model.pretrained_cfg
    return {
        "custom_load": False,
        "input_size": [3, *preprocessing.size],
        "fixed_input_size": False,
        "interpolation": preprocessing.resample,
        "crop_pct": 1.0,
        "crop_mode": _CROP_MODES[preprocessing.fit],
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "num_classes": 0,
        "first_conv": published.get("first_conv"),
        "classifier": published.get("classifier"),
    }
