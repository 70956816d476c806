"""CLIP and SigLIP, and the contrastive towers inside OWL-ViT and OWLv2, from Hugging Face."""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    CLIPConfig,
    Owlv2Config,
    OwlViTConfig,
    SiglipConfig,
    SiglipTextConfig,
    SiglipTextModel,
)

from owlkit.encoders.hf_vision import to_timm_state, vision_tower_from_config
from owlkit.encoders.hub import load_exactly, read_weights
from owlkit.encoders.skip_init import SkipRandomInit
from owlkit.encoders.text import LEGACY_EOS, TextTower
from owlkit.encoders.tokenizer import read_tokenizer
from owlkit.errors import CheckpointError
from owlkit.geometry import CLIP_MEAN, CLIP_STD, SIGLIP_MEAN, SIGLIP_STD, Preprocessing
from owlkit.json_file import read_json
from owlkit.models.dual_encoder import DualEncoder
from owlkit.models.interop import parts

_CONFIGS: dict[str, Any] = {
    "clip": CLIPConfig,
    "siglip": SiglipConfig,
    "owlvit": OwlViTConfig,
    "owlv2": Owlv2Config,
}


def import_dual_encoder(folder: Path) -> DualEncoder:
    """Reads a Hugging Face CLIP, SigLIP, OWL-ViT or OWLv2 folder as a pair of towers.

    Raises:
        CheckpointError: If it is none of these, or its weights do not fit; lists all faults.
    """
    model_type = str(read_json(folder / "config.json").get("model_type"))
    if model_type not in _CONFIGS:
        known = ", ".join(_CONFIGS)
        raise CheckpointError(
            f"{folder}: expected a model of type {known}; found model_type {model_type!r}"
        )
    config = parts.make_config(_CONFIGS[model_type], folder)
    is_siglip = model_type == "siglip"
    with SkipRandomInit():
        vision = vision_tower_from_config(config["vision_config"])
        text = _siglip_text(config) if is_siglip else _clip_text(config, model_type)
    model = DualEncoder(
        vision,
        text,
        preprocessing=_read_preprocessing(folder, vision.image_size[0], is_siglip=is_siglip),
        image_projection=not is_siglip,
        logit_bias=is_siglip,
        tokenizer=read_tokenizer(folder, text.context_length),
    )
    state = read_weights(folder)
    prefix = f"{model_type}." if model_type.startswith("owl") else ""
    if prefix:
        # The detector's heads stand outside the prefix and are not part of the towers.
        state = {key: value for key, value in state.items() if key.startswith(prefix)}
    _load_weights(model, state, prefix=prefix, source=folder)
    return model


def _clip_text(config: dict[str, Any], model_type: str) -> TextTower:
    text = {**config["text_config"], "projection_dim": config["projection_dim"]}
    eos = text["eos_token_id"]
    if model_type.startswith("owl") or eos == LEGACY_EOS:
        largest = text["vocab_size"] - 1
        return parts.clip_text_tower(
            text,
            pool="argmax",
            eos_token_id=largest if eos == largest else None,
            pad_token_id=0 if model_type.startswith("owl") else text["pad_token_id"],
        )
    return parts.clip_text_tower(
        text, pool="eos", eos_token_id=eos, pad_token_id=text["pad_token_id"]
    )


def _siglip_text(config: dict[str, Any]) -> TextTower:
    text = SiglipTextConfig(**config["text_config"])
    return TextTower(SiglipTextModel(text), pool="last", pad_token_id=text.pad_token_id)


def _read_preprocessing(folder: Path, image_size: int, *, is_siglip: bool) -> Preprocessing:
    settings = parts.read_processor(folder)
    defaults = (SIGLIP_MEAN, SIGLIP_STD) if is_siglip else (CLIP_MEAN, CLIP_STD)
    mean, std = parts.processor_colours(settings, *defaults)
    return Preprocessing(
        size=parts.processor_size(settings, image_size),
        fit="squash" if is_siglip else "crop",
        resample="bicubic",
        mean=mean,
        std=std,
    )


def _load_weights(
    model: DualEncoder, state: dict[str, Tensor], *, prefix: str, source: Path
) -> None:
    vision = to_timm_state(parts.take_prefix(state, f"{prefix}vision_model."))
    text = parts.take_prefix(state, f"{prefix}text_model.")
    converted = {f"vision.{key}": value for key, value in vision.items()}
    converted |= parts.to_text_state(model.text, text)
    names = {
        "visual_projection.weight": "image_projection.weight",
        "text_projection.weight": "text.projection.weight",
    }
    for key, value in state.items():
        if key.startswith((f"{prefix}vision_model.", f"{prefix}text_model.")):
            continue
        name = key.removeprefix(prefix)
        # SigLIP stores its two scalars as vectors of length 1.
        is_scalar = name in ("logit_scale", "logit_bias")
        converted[names.get(name, name)] = value.reshape(()) if is_scalar else value
    load_exactly(model, converted, source=source)
