"""Finds out what a folder holds and loads it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from owlkit.calibration import Calibration
from owlkit.encoders.hub import MANIFEST, load_exactly, read_manifest, resolve_folder
from owlkit.encoders.pretrained import load_vision_tower, read_colours
from owlkit.encoders.skip_init import SkipRandomInit
from owlkit.encoders.text import TextTower, load_text_model
from owlkit.encoders.tokenizer import Tokenizer, read_tokenizer
from owlkit.encoders.vision import VisionTower
from owlkit.errors import CheckpointError, ConfigError
from owlkit.geometry import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from owlkit.json_file import read_json
from owlkit.models.backbone import ImageBackbone
from owlkit.models.checkpoint import read_own_weights
from owlkit.models.convention import (
    OWL_POSITIONS,
    Convention,
    ConventionName,
    resolve_convention,
)
from owlkit.models.detector import OwlDetector
from owlkit.models.dual_encoder import DualEncoder
from owlkit.models.interop.contrastive import import_dual_encoder
from owlkit.models.interop.owl import OWL_TYPES, import_owl, owl_preprocessing


def load_model(
    folder_or_id: str | Path, convention: ConventionName | None = None
) -> DualEncoder | OwlDetector:
    """Loads whichever of the two a folder holds.

    Args:
        folder_or_id: Folder or hub id.
        convention: Of a detector; see ``OwlDetector.from_pretrained``.

    Raises:
        CheckpointError: If it holds neither, or does not fit.
    """
    folder = resolve_folder(folder_or_id)
    if (folder / MANIFEST).is_file():
        is_detector = read_json(folder / MANIFEST).get("kind") == "detector"
    else:
        is_detector = read_json(folder / "config.json").get("model_type") in OWL_TYPES
    return load_detector(folder, convention) if is_detector else load_dual_encoder(folder)


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
    manifest = read_manifest(folder, kinds=("detector",))
    preprocessing = Preprocessing.from_dict(manifest["preprocessing"])
    with _complete_manifest(folder), SkipRandomInit():
        architecture = manifest["architecture"]
        numerics = Convention.from_dict(architecture["convention"])
        vision, text, tokenizer = _load_towers(folder, architecture)
        objectness = architecture["objectness"]
        if convention is not None and convention != numerics.name:
            # What was chosen freely stays; what follows the one convention follows the other.
            other: ConventionName = "hf" if convention == "scenic" else "scenic"
            if preprocessing == _published(objectness, preprocessing, other):
                preprocessing = _published(objectness, preprocessing, convention)
            if vision.positions == OWL_POSITIONS[other]:
                vision.positions = OWL_POSITIONS[convention]
            numerics = resolve_convention(convention)
        detector = OwlDetector(
            vision,
            text,
            preprocessing=preprocessing,
            convention=numerics,
            merge=architecture["merge"],
            objectness=objectness,
            tokenizer=tokenizer,
        )
        has_projection = architecture["image_projection"]
    state = read_own_weights(folder, text)
    if has_projection and "image_projection.weight" in state:
        detector.keep_projection(state["image_projection.weight"], state["logit_scale"])
    load_exactly(detector, state, source=folder)
    detector.calibration, detector.threshold = _read_measured(folder / MANIFEST, manifest)
    return detector.eval()


def _read_measured(path: Path, manifest: dict[str, Any]) -> tuple[Calibration | None, float | None]:
    """What a detector's manifest says of its scores."""
    calibration, threshold = manifest.get("calibration"), manifest.get("threshold")
    if threshold is not None and (type(threshold) not in (int, float) or not 0 <= threshold <= 1):
        raise CheckpointError(
            f"{path}: threshold: expected a number in [0, 1], found {threshold!r}"
        )
    try:
        known = None if calibration is None else Calibration.from_dict(calibration)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: calibration: {error}") from error
    return known, threshold


def _published(
    objectness: bool, preprocessing: Preprocessing, convention: ConventionName
) -> Preprocessing:
    """A convention's own preprocessing with the size and colours of this one."""
    own = owl_preprocessing(objectness, preprocessing.size, convention)
    return replace(own, mean=preprocessing.mean, std=preprocessing.std)


def load_dual_encoder(folder_or_id: str | Path) -> DualEncoder:
    """Loads an owlkit, CLIP or SigLIP model; see ``DualEncoder.from_pretrained``."""
    folder = resolve_folder(folder_or_id)
    if not (folder / MANIFEST).is_file():
        return import_dual_encoder(folder).eval()
    manifest = read_manifest(folder, kinds=("dual_encoder",))
    preprocessing = Preprocessing.from_dict(manifest["preprocessing"])
    with _complete_manifest(folder), SkipRandomInit():
        architecture = manifest["architecture"]
        vision, text, tokenizer = _load_towers(folder, architecture)
        model = DualEncoder(
            vision,
            text,
            preprocessing=preprocessing,
            image_projection=architecture["image_projection"],
            logit_bias=architecture["logit_bias"],
            tokenizer=tokenizer,
        )
    load_exactly(model, read_own_weights(folder, text), source=folder)
    return model.eval()


def load_backbone(folder_or_id: str | Path) -> ImageBackbone:
    """Loads an image tower with its preprocessing; see ``ImageBackbone.from_pretrained``."""
    folder = resolve_folder(folder_or_id)
    vision = load_vision_tower(folder)
    if (folder / MANIFEST).is_file():
        preprocessing = Preprocessing.from_dict(read_json(folder / MANIFEST)["preprocessing"])
    else:
        mean, std = read_colours(folder) or (IMAGENET_MEAN, IMAGENET_STD)
        preprocessing = Preprocessing(
            size=vision.image_size, fit="crop", resample="bicubic", mean=mean, std=std
        )
    return ImageBackbone(vision, preprocessing).eval()


@contextmanager
def _complete_manifest(folder: Path) -> Iterator[None]:
    """What a manifest lacks, or has too much, is a fault of the folder."""
    try:
        yield
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: architecture: {error}") from error


def _load_towers(
    folder: Path, architecture: dict[str, Any]
) -> tuple[VisionTower, TextTower, Tokenizer | None]:
    vision = VisionTower(**architecture["vision"])
    text = TextTower(load_text_model(folder / "text"), **architecture["text"])
    return vision, text, read_tokenizer(folder / "tokenizer", None)
