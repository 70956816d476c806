"""OWL-ViT and OWLv2 between Hugging Face's folders and owlkit; nothing is lost on the way.

Works for ``google/owlvit-{base-patch32,base-patch16,large-patch14}`` and
``google/owlv2-{base-patch16,large-patch14}{,-finetuned,-ensemble}``, and for any folder of the same
format.
"""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPTextModel,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
)

from owlkit.encoders.hf_vision import from_timm_state, to_timm_state, vision_tower_from_config
from owlkit.encoders.hub import load_exactly, read_weights
from owlkit.encoders.skip_init import SkipRandomInit
from owlkit.encoders.text import TextTower
from owlkit.encoders.tokenizer import read_tokenizer
from owlkit.errors import CheckpointError
from owlkit.geometry import (
    CLIP_MEAN,
    CLIP_STD,
    Preprocessing,
    owlv2_preprocessing,
    owlvit_preprocessing,
)
from owlkit.json_file import read_json
from owlkit.models.checkpoint import plain_state, replaced_folder
from owlkit.models.convention import OWL_POSITIONS, ConventionName, resolve_convention
from owlkit.models.detector import OwlDetector
from owlkit.models.interop import parts

OWL_TYPES = ("owlvit", "owlv2")
_CONFIGS: dict[str, Any] = {"owlvit": OwlViTConfig, "owlv2": Owlv2Config}
_MODELS: dict[str, Any] = {"owlvit": OwlViTForObjectDetection, "owlv2": Owlv2ForObjectDetection}

# Hugging Face's names of the parts outside the towers, and owlkit's.
_HEAD_NAMES = {
    "layer_norm.": "merge_norm.",
    "class_head.dense0.": "class_head.dense.",
    "class_head.logit_shift.": "class_head.logit_shift.",
    "class_head.logit_scale.": "class_head.logit_scale.",
    "box_head.": "box_head.",
    "objectness_head.": "objectness_head.",
}


def owl_preprocessing(
    objectness: bool, size: tuple[int, int], convention: ConventionName
) -> Preprocessing:
    """The published preprocessing of OWL-ViT or, with objectness, OWLv2."""
    make = owlv2_preprocessing if objectness else owlvit_preprocessing
    return make(size, convention)


def import_owl(folder: Path, convention: ConventionName) -> OwlDetector:
    """Reads a Hugging Face OWL-ViT or OWLv2 folder.

    Args:
        folder: With config.json and weights; tokenizer and image processor files are used if there.
        convention: How to compute; decides about padding too.

    Raises:
        CheckpointError: If weights are missing, left over, or of another shape; lists all.
    """
    model_type = read_json(folder / "config.json")["model_type"]
    config = parts.make_config(_CONFIGS[model_type], folder)
    text_config = {**config["text_config"], "projection_dim": config["projection_dim"]}
    largest = text_config["vocab_size"] - 1
    # The end token is the largest id. Some published files name a wrong one, which is not checked.
    eos = largest if text_config["eos_token_id"] == largest else None
    with SkipRandomInit():
        vision = vision_tower_from_config(config["vision_config"])
        vision.positions = OWL_POSITIONS[convention]
        text = parts.clip_text_tower(text_config, pool="argmax", eos_token_id=eos, pad_token_id=0)
        detector = OwlDetector(
            vision,
            text,
            preprocessing=_read_preprocessing(folder, model_type, vision.image_size, convention),
            convention=resolve_convention(convention),
            objectness=model_type == "owlv2",
            tokenizer=read_tokenizer(folder, text.context_length),
        )
    _load_weights(detector, read_weights(folder), prefix=f"{model_type}.", source=folder)
    return detector


def _read_preprocessing(
    folder: Path, model_type: str, image_size: tuple[int, int], convention: ConventionName
) -> Preprocessing:
    settings = parts.read_processor(folder)
    size = parts.processor_size(settings, image_size[0])
    mean, std = parts.processor_colours(settings, CLIP_MEAN, CLIP_STD)
    return replace(owl_preprocessing(model_type == "owlv2", size, convention), mean=mean, std=std)


def _load_weights(
    detector: OwlDetector, state: dict[str, Tensor], *, prefix: str, source: Path
) -> None:
    vision = to_timm_state(parts.take_prefix(state, f"{prefix}vision_model."))
    text = parts.take_prefix(state, f"{prefix}text_model.")
    projection = state.get(f"{prefix}visual_projection.weight")
    if projection is not None:
        scale = state.get(f"{prefix}logit_scale", detector.logit_scale)
        detector.keep_projection(projection, scale)
    converted = {f"vision.{key}": value for key, value in vision.items()}
    converted |= parts.to_text_state(detector.text, text)
    for key, value in state.items():
        if not key.startswith((f"{prefix}vision_model.", f"{prefix}text_model.")):
            converted[_rename_head(key.removeprefix(prefix))] = value
    converted.setdefault("logit_scale", detector.logit_scale)
    converted["logit_scale"] = converted["logit_scale"].reshape(())
    converted.pop("box_bias", None)  # a constant that some releases stored
    load_exactly(detector, converted, source=source)


def _rename_head(key: str) -> str:
    if key == "visual_projection.weight":
        return "image_projection.weight"
    if key == "text_projection.weight":
        return "text.projection.weight"
    for theirs, ours in _HEAD_NAMES.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def save_owl(detector: OwlDetector, folder: Path) -> None:
    """Writes a folder that transformers loads with no missing and no unexpected keys.

    Args:
        detector: A detector on a CLIP vision transformer with class token and CLIP text tower.
        folder: A new or empty folder.

    Raises:
        CheckpointError: If transformers' classes cannot hold this architecture.
    """
    _check_exportable(detector)
    model_type = "owlv2" if detector.objectness_head is not None else "owlvit"
    _warn_about_differences(detector, model_type)
    config = _make_config(detector, model_type)
    state = _huggingface_state(detector, f"{model_type}.")
    _check_against_transformers(config, state, model_type)
    with replaced_folder(folder, marker=None) as new:
        (new / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(state, new / "model.safetensors", metadata={"format": "pt"})
        _save_processor(detector, model_type, new)


def _check_exportable(detector: OwlDetector) -> None:
    vision, text = detector.vision, detector.text
    faults = []
    if not vision.is_vit or vision.model.cls_token is None or vision.model.reg_token is not None:
        faults.append(f"image tower {vision.name}: needs a class token and no registers")
    elif isinstance(vision.model.norm_pre, nn.Identity):
        faults.append(f"image tower {vision.name}: needs CLIP's norm before the blocks")
    elif parts.activation(detector.vision) not in parts.ACTIVATIONS:
        faults.append(f"image tower {vision.name}: activation {parts.activation(detector.vision)}")
    if vision.image_size[0] != vision.image_size[1]:
        faults.append(f"image size {vision.image_size}: must be square")
    if detector.merge != "class_token":
        faults.append(f"merge {detector.merge!r}: must be 'class_token'")
    if not isinstance(text.model, CLIPTextModel) or not _pools_at_largest_id(text):
        faults.append("text tower: must be CLIP's, pooled at the largest token id")
    elif not isinstance(text.projection, nn.Linear):
        faults.append("text tower: needs a projection")
    elif text.width != text.model.config.hidden_size:
        # transformers makes the class head as wide as the text tower, not as the projection.
        faults.append(f"projection to {text.width}: must equal {text.model.config.hidden_size}")
    if faults:
        listing = "\n  ".join(faults)
        raise CheckpointError(f"transformers' OWL classes cannot hold this detector:\n  {listing}")


def _pools_at_largest_id(text: TextTower) -> bool:
    is_largest = text.eos_token_id == text.model.config.vocab_size - 1
    return text.pool == "argmax" or (text.pool == "eos" and is_largest)


def _check_against_transformers(
    config: dict[str, Any], state: dict[str, Tensor], model_type: str
) -> None:
    """Compares with what transformers' own class would look for, without making its weights."""
    with torch.device("meta"):
        expected = _MODELS[model_type](_CONFIGS[model_type](**config)).state_dict()
    faults = [f"no place for {key}" for key in state if key not in expected]
    faults += [f"nothing for {key}" for key in expected if key not in state]
    faults += [
        f"{key}: transformers expects {list(expected[key].shape)}, found {list(value.shape)}"
        for key, value in state.items()
        if key in expected and expected[key].shape != value.shape
    ]
    if faults:
        listing = "\n  ".join(faults)
        raise CheckpointError(f"transformers' OWL classes cannot hold this detector:\n  {listing}")


def _warn_about_differences(detector: OwlDetector, model_type: str) -> None:
    theirs = owl_preprocessing(model_type == "owlv2", detector.preprocessing.size, "hf")
    ours = detector.preprocessing
    differences = []
    if detector.convention != resolve_convention("hf"):
        differences.append(f"computes with the 'hf' convention, not {detector.convention.name!r}")
    if (ours.fit, ours.resample, ours.pad_value) != (theirs.fit, theirs.resample, theirs.pad_value):
        differences.append(
            f"prepares images by {theirs.fit}, {theirs.resample}, padding {theirs.pad_value}, "
            f"not by {ours.fit}, {ours.resample}, {ours.pad_value}"
        )
    if differences:
        warnings.warn(f"transformers {' and '.join(differences)}", UserWarning, stacklevel=4)


def _make_config(detector: OwlDetector, model_type: str) -> dict[str, Any]:
    vision, text_config = detector.vision, detector.text.model.config
    model = vision.model
    config = _CONFIGS[model_type](
        text_config={name: getattr(text_config, name) for name in parts.TEXT_SETTINGS},
        vision_config={
            "hidden_size": vision.width,
            "intermediate_size": model.blocks[0].mlp.fc1.out_features,
            "num_hidden_layers": len(model.blocks),
            "num_attention_heads": model.blocks[0].attn.num_heads,
            "num_channels": model.patch_embed.proj.in_channels,
            "image_size": vision.image_size[0],
            "patch_size": vision.patch_size,
            "hidden_act": parts.ACTIVATIONS[parts.activation(vision)],
            "layer_norm_eps": model.norm.eps,
        },
        projection_dim=detector.text.width,
    ).to_dict()
    name = "Owlv2ForObjectDetection" if model_type == "owlv2" else "OwlViTForObjectDetection"
    result: dict[str, Any] = {**config, "architectures": [name]}
    return result


def _huggingface_state(detector: OwlDetector, prefix: str) -> dict[str, Tensor]:
    vision = from_timm_state(detector.vision, pre_norm_name="pre_layernorm")
    state = {f"{prefix}vision_model.{key}": value for key, value in vision.items()}
    text = parts.text_weights(detector.text)
    state |= {f"{prefix}text_model.{key}": value for key, value in text.items()}
    state[f"{prefix}text_projection.weight"] = detector.state_dict()["text.projection.weight"]
    state[f"{prefix}visual_projection.weight"] = _image_projection(detector)
    state[f"{prefix}logit_scale"] = detector.logit_scale
    for key, value in plain_state(detector).items():
        for theirs, ours in _HEAD_NAMES.items():
            if key.startswith(ours):
                state[theirs + key.removeprefix(ours)] = value
    return {key: value.detach().float().contiguous() for key, value in state.items()}


def _image_projection(detector: OwlDetector) -> Tensor:
    """The contrastive projection; where there never was one, the first coordinates.

    transformers computes contrastive outputs on every forward pass without using them, so the
    weight has to be there and has to give finite numbers.
    """
    if detector.image_projection is not None:
        return detector.image_projection.weight
    return torch.eye(detector.text.width, detector.vision.width)


def _save_processor(detector: OwlDetector, model_type: str, folder: Path) -> None:
    height, width = detector.preprocessing.size
    settings: dict[str, Any] = {
        "size": {"height": height, "width": width},
        "image_mean": list(detector.preprocessing.mean),
        "image_std": list(detector.preprocessing.std),
    }
    is_v2 = model_type == "owlv2"
    processor: Any = (Owlv2ImageProcessor if is_v2 else OwlViTImageProcessor)(**settings)
    processor.save_pretrained(folder)
    if detector.tokenizer is not None:
        both: Any = Owlv2Processor if is_v2 else OwlViTProcessor
        both(processor, detector.tokenizer.transformers_tokenizer).save_pretrained(folder)
