"""Image towers with trained weights: from timm's hub, or from a folder in one of three layouts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm

from owlkit.encoders.hf_vision import to_timm_state, vision_tower_from_config
from owlkit.encoders.hub import (
    MANIFEST,
    load_exactly,
    read_manifest,
    read_weights,
    resolve_folder,
)
from owlkit.encoders.positions import published_positions
from owlkit.encoders.skip_init import SkipRandomInit
from owlkit.encoders.vision import VisionTower
from owlkit.errors import CheckpointError, ConfigError
from owlkit.geometry import RGB
from owlkit.json_file import read_json

# Prefixes that Hugging Face puts before an image tower's own names, longest first.
_PREFIXES = (
    "owlvit.vision_model.",
    "owlv2.vision_model.",
    "vision_model.",
    "dinov2_with_registers.",
    "dinov2.",
    "vit.",
)


def load_vision_tower(folder_or_id: str | Path) -> VisionTower:
    """Loads an image tower from a folder or hub id.

    Understood are owlkit's model folders, timm's (``architecture`` in config.json) and Hugging
    Face's CLIP, SigLIP, OWL-ViT, OWLv2, ViT, DINOv2 and DINOv2 with registers.

    Raises:
        CheckpointError: If the folder is missing or of another kind, or weights do not fit.
    """
    folder = resolve_folder(folder_or_id)
    if (folder / MANIFEST).is_file():
        return _load_owlkit(folder)
    config = read_json(folder / "config.json")
    if "architecture" in config:
        return _load_timm(folder, config)
    return _load_huggingface(folder, config)


def _load_owlkit(folder: Path) -> VisionTower:
    manifest = read_manifest(folder, kinds=("detector", "dual_encoder", "backbone"))
    try:
        with SkipRandomInit():
            tower = VisionTower(**manifest["architecture"]["vision"])
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{folder}: {MANIFEST} describes no image tower: {error}") from error
    state = read_weights(folder)
    own = {key.removeprefix("vision."): state[key] for key in state if key.startswith("vision.")}
    load_exactly(tower, own, source=folder)
    return tower


def _load_timm(folder: Path, config: dict[str, Any]) -> VisionTower:
    name, published = config["architecture"], config.get("pretrained_cfg", {})
    tagged = f"{name}.{published.get('tag', '')}"
    size = published.get("input_size", config.get("input_size"))
    with SkipRandomInit():
        tower = VisionTower(
            name,
            image_size=size[-1] if size else None,
            positions=published_positions(tagged),
            overrides=config.get("model_args") or {},
        )
    classifier = f"{published.get('classifier', 'head')}."
    state = {
        f"model.{key}": value
        for key, value in read_weights(folder).items()
        if not key.startswith(classifier) or f"model.{key}" in tower.state_dict()
    }
    load_exactly(tower, state, source=folder)
    return tower


def _load_huggingface(folder: Path, config: dict[str, Any]) -> VisionTower:
    vision_config = config
    if "vision_config" in config:
        # Old files do not repeat the type inside, or say null for "all as usual".
        inner = config["vision_config"] or {}
        vision_config = {"model_type": f"{config.get('model_type')}_vision_model", **inner}
    with SkipRandomInit():
        tower = vision_tower_from_config(vision_config)
    state = read_weights(folder)
    prefix = next((p for p in _PREFIXES if any(key.startswith(p) for key in state)), "")
    own = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
    converted = to_timm_state({k: v for k, v in own.items() if not k.startswith("classifier.")})
    if tower.mask_token is not None:
        converted.setdefault("mask_token", tower.mask_token.data)
    load_exactly(tower, converted, source=folder)
    return tower


def read_colours(folder: Path) -> tuple[RGB, RGB] | None:
    """Mean and standard deviation that a folder's images were normalised with, if it says so.

    Args:
        folder: A model folder of owlkit, timm or Hugging Face.
    """
    if (folder / MANIFEST).is_file():
        found = read_json(folder / MANIFEST).get("preprocessing", {})
    elif (folder / "preprocessor_config.json").is_file():
        settings = read_json(folder / "preprocessor_config.json")
        found = {"mean": settings.get("image_mean"), "std": settings.get("image_std")}
    else:
        found = read_json(folder / "config.json").get("pretrained_cfg", {})
    if not found.get("mean") or not found.get("std"):
        return None
    return to_rgb(found["mean"]), to_rgb(found["std"])


def published_colours(name: str) -> tuple[RGB, RGB]:
    """Mean and standard deviation of timm's published weights of this name."""
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise ConfigError(f"timm publishes no weights for {name}")
    return to_rgb(config.mean), to_rgb(config.std)


def to_rgb(values: Sequence[float]) -> RGB:
    """Three numbers as a tuple."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue
