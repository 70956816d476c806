"""Image towers with trained weights: from timm's hub, or from a folder in one of three layouts."""

from pathlib import Path
from typing import Any

from owlkit.encoders.hf_vision import to_timm_state, vision_tower_from_config
from owlkit.encoders.hub import load_exactly, read_json, read_weights, resolve_folder
from owlkit.encoders.positions import PositionMode
from owlkit.encoders.vision import VisionTower
from owlkit.errors import CheckpointError

# Prefixes that Hugging Face puts before an image tower's own names, longest first.
_PREFIXES = (
    "owlvit.vision_model.",
    "owlv2.vision_model.",
    "vision_model.",
    "dinov2_with_registers.",
    "dinov2.",
    "vit.",
)


def published_positions(name: str) -> PositionMode:
    """The rule under which timm's published weights of this name were trained.

    DINO and DINOv2 stretch their table by a small offset, DINOv2 with registers uses antialias;
    see :func:`~owlkit.encoders.positions.resample_positions`.
    """
    if "reg4_dinov2" in name:
        return "bicubic_antialias"
    return "bicubic_offset" if "dinov2" in name or name.endswith(".dino") else "bicubic"


def load_vision_tower(folder_or_id: str | Path) -> VisionTower:
    """Loads an image tower from a folder or hub id.

    Understood are owlkit's model folders, timm's (``architecture`` in config.json) and Hugging
    Face's CLIP, SigLIP, OWL-ViT, OWLv2, ViT, DINOv2 and DINOv2 with registers.

    Raises:
        CheckpointError: If the folder is missing or of another kind, or weights do not fit.
    """
    folder = resolve_folder(folder_or_id)
    if (folder / "owlkit.json").is_file():
        return _load_owlkit(folder)
    config = read_json(folder / "config.json")
    if "architecture" in config:
        return _load_timm(folder, config)
    return _load_huggingface(folder, config)


def _load_owlkit(folder: Path) -> VisionTower:
    try:
        tower = VisionTower(**read_json(folder / "owlkit.json")["architecture"]["vision"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: owlkit.json describes no image tower: {error}") from error
    state = read_weights(folder)
    own = {key.removeprefix("vision."): state[key] for key in state if key.startswith("vision.")}
    load_exactly(tower, own, source=folder)
    return tower


def _load_timm(folder: Path, config: dict[str, Any]) -> VisionTower:
    name, published = config["architecture"], config.get("pretrained_cfg", {})
    tagged = f"{name}.{published.get('tag', '')}"
    size = published.get("input_size", config.get("input_size"))
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
    vision_config = config.get("vision_config", config)
    if "vision_config" in config:
        # Old files do not repeat the type inside.
        vision_config = {"model_type": f"{config['model_type']}_vision_model", **vision_config}
    tower = vision_tower_from_config(vision_config)
    state = read_weights(folder)
    prefix = next((p for p in _PREFIXES if any(key.startswith(p) for key in state)), "")
    own = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
    converted = to_timm_state({k: v for k, v in own.items() if not k.startswith("classifier.")})
    if tower.mask_token is not None:
        converted.setdefault("mask_token", tower.mask_token.data)
    load_exactly(tower, converted, source=folder)
    return tower
