"""Finds out what a folder holds and loads it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from owlkit.encoders.hub import load_exactly, read_json, resolve_folder
from owlkit.encoders.text import TextTower, load_text_model
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.encoders.vision import VisionTower
from owlkit.errors import CheckpointError
from owlkit.geometry import Preprocessing
from owlkit.models.checkpoint import MANIFEST, read_manifest, read_own_weights
from owlkit.models.convention import OWL_POSITIONS, Convention, ConventionName, resolve_convention
from owlkit.models.detector import OwlDetector
from owlkit.models.dual_encoder import DualEncoder
from owlkit.models.interop.contrastive import import_dual_encoder
from owlkit.models.interop.owl import OWL_TYPES, import_owl, owl_preprocessing


def load_model(folder_or_id: str | Path) -> DualEncoder | OwlDetector:
    """Loads whichever of the two a folder holds.

    Raises:
        CheckpointError: If it holds neither, or does not fit.
    """
    folder = resolve_folder(folder_or_id)
    if (folder / MANIFEST).is_file():
        is_detector = read_json(folder / MANIFEST).get("kind") == "detector"
    else:
        is_detector = read_json(folder / "config.json").get("model_type") in OWL_TYPES
    return load_detector(folder) if is_detector else load_dual_encoder(folder)


def load_detector(
    folder_or_id: str | Path, convention: ConventionName | None = None
) -> OwlDetector:
    """Loads an owlkit, OWL-ViT or OWLv2 detector; see ``OwlDetector.from_pretrained``."""
    folder = resolve_folder(folder_or_id)
    if (folder / MANIFEST).is_file():
        return _load_own_detector(folder, convention)
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type not in OWL_TYPES:
        raise CheckpointError(
            f"{folder}: expected an owlkit detector or a Hugging Face {' or '.join(OWL_TYPES)}; "
            f"found model_type {model_type!r}"
        )
    return import_owl(folder, convention or "hf").eval()


def _load_own_detector(folder: Path, convention: ConventionName | None) -> OwlDetector:
    manifest = read_manifest(folder, kind="detector")
    architecture = manifest["architecture"]
    numerics = Convention.from_dict(architecture["convention"])
    preprocessing = Preprocessing.from_dict(manifest["preprocessing"])
    vision, text, tokenizer = _load_towers(folder, architecture)
    if convention is not None and convention != numerics.name:
        numerics = resolve_convention(convention)
        vision.positions = OWL_POSITIONS[convention]
        published = owl_preprocessing(architecture["objectness"], preprocessing.size, convention)
        preprocessing = replace(published, mean=preprocessing.mean, std=preprocessing.std)
    detector = OwlDetector(
        vision,
        text,
        preprocessing=preprocessing,
        convention=numerics,
        merge=architecture["merge"],
        objectness=architecture["objectness"],
        tokenizer=tokenizer,
    )
    state = read_own_weights(folder, text)
    if architecture["image_projection"] and "image_projection.weight" in state:
        detector.keep_projection(state["image_projection.weight"], state["logit_scale"])
    load_exactly(detector, state, source=folder)
    return detector.eval()


def load_dual_encoder(folder_or_id: str | Path) -> DualEncoder:
    """Loads an owlkit, CLIP or SigLIP model; see ``DualEncoder.from_pretrained``."""
    folder = resolve_folder(folder_or_id)
    if not (folder / MANIFEST).is_file():
        return import_dual_encoder(folder).eval()
    manifest = read_manifest(folder, kind="dual_encoder")
    architecture = manifest["architecture"]
    vision, text, tokenizer = _load_towers(folder, architecture)
    model = DualEncoder(
        vision,
        text,
        preprocessing=Preprocessing.from_dict(manifest["preprocessing"]),
        image_projection=architecture["image_projection"],
        logit_bias=architecture["logit_bias"],
        tokenizer=tokenizer,
    )
    load_exactly(model, read_own_weights(folder, text), source=folder)
    return model.eval()


def _load_towers(
    folder: Path, architecture: dict[str, Any]
) -> tuple[VisionTower, TextTower, Tokenizer | None]:
    try:
        vision = VisionTower(**architecture["vision"])
        text = TextTower(load_text_model(folder / "text"), **architecture["text"])
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: architecture: {error}") from error
    return vision, text, load_tokenizer(folder / "tokenizer", text.context_length)


def load_tokenizer(folder: Path, context_length: int) -> Tokenizer | None:
    """The tokenizer of a model folder; None if the model was saved without one."""
    if not (folder / "tokenizer_config.json").is_file():
        return None
    return Tokenizer.from_pretrained(folder, context_length=context_length)
