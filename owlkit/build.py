"""From configuration to objects; the only module that knows all of them."""

import torch

from owlkit.config import ModelSection, VisionSection
from owlkit.encoders.hub import load_exactly, resolve_folder
from owlkit.encoders.initialization import init_clip_text, init_clip_vision
from owlkit.encoders.pretrained import load_vision_tower, published_colours, read_colours
from owlkit.encoders.skip_init import SkipRandomInit
from owlkit.encoders.text import (
    OWL_CONTEXT_LENGTH,
    TextTower,
    create_text_tower,
    is_clip,
    load_text_tower,
    shorten_context,
)
from owlkit.encoders.tokenizer import Tokenizer, read_tokenizer
from owlkit.encoders.vision import VisionTower
from owlkit.geometry import CLIP_MEAN, CLIP_STD, RGB, Preprocessing
from owlkit.models import DualEncoder, OwlDetector
from owlkit.models.convention import resolve_convention
from owlkit.models.loading import load_model


def build_detector(config: ModelSection, *, seed: int = 0) -> OwlDetector:
    """Makes a detector, untrained or on trained towers.

    Args:
        config: The ``model`` section.
        seed: Of random weights; the global random state is left as it was.

    Returns:
        The detector in training mode, float32, on the CPU.

    Raises:
        ConfigError: If the sections do not fit together.
        CheckpointError: If weights to start from are missing or do not fit.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        source = load_model(config.init_from) if config.init_from else None
        if source is None:
            vision, text = _build_vision(config.vision), _build_text(config)
        else:
            vision, text = _adapt_vision(source.vision, config.vision), source.text
        text = _fit_context(text, config.text.context_length)
        detector = OwlDetector(
            vision,
            text,
            preprocessing=_preprocessing(config, source),
            convention=resolve_convention(config.convention),
            merge=config.heads.merge,
            objectness=config.heads.objectness,
            prior_prob=config.heads.prior_prob,
            tokenizer=_tokenizer(config, source, text),
        )
    if source is not None:
        _take_over(detector, source)
    return detector.train()


def _build_vision(section: VisionSection) -> VisionTower:
    if section.weights not in ("random", "hub"):
        return _adapt_vision(load_vision_tower(section.weights), section)
    if section.weights == "hub":
        trained = VisionTower(section.name, overrides=section.overrides, pretrained=True)
        return _adapt_vision(trained, section)
    tower = VisionTower(
        section.name,
        image_size=section.image_size,
        positions=section.positions,
        drop_path=section.drop_path,
        rescale_dropped=False,
        overrides=section.overrides,
    )
    tower.set_image_size(section.image_size)  # refuses what is no multiple of the patch size
    if section.init == "clip":
        init_clip_vision(tower)
    tower.gradient_checkpointing = section.gradient_checkpointing
    return tower


def _adapt_vision(trained: VisionTower, section: VisionSection) -> VisionTower:
    """The same weights at another image size, with stochastic depth."""
    changes = {"drop_path": section.drop_path, "rescale_dropped": False}
    with SkipRandomInit():
        tower = VisionTower(**{**trained.spec, **changes})
    load_exactly(tower, trained.state_dict(), source=trained.name)
    tower.positions = section.positions or trained.positions
    tower.set_image_size(section.image_size)
    tower.gradient_checkpointing = section.gradient_checkpointing
    return tower


def _build_text(config: ModelSection) -> TextTower:
    section = config.text
    if section.weights is not None:
        return load_text_tower(
            section.weights, pool=section.pool, projection_width=section.embed_width
        )
    tower = create_text_tower(
        width=section.width,
        depth=section.depth,
        heads=section.heads,
        vocab_size=section.vocab_size,
        context_length=section.context_length or OWL_CONTEXT_LENGTH,
        embed_width=section.embed_width,
        activation=section.activation,
        pool=section.pool or "argmax",
    )
    init_clip_text(tower)
    return tower


def _fit_context(text: TextTower, context_length: int | None) -> TextTower:
    """The tower for texts of the wanted length; only CLIP's has one position per token to cut."""
    if not is_clip(text):
        return text
    wanted = context_length or min(OWL_CONTEXT_LENGTH, text.context_length)
    return text if wanted == text.context_length else shorten_context(text, wanted)


def _preprocessing(config: ModelSection, source: DualEncoder | OwlDetector | None) -> Preprocessing:
    section, side = config.preprocessing, config.vision.image_size
    mean, std = _colours(config.vision, source)
    return Preprocessing(
        size=(side, side),
        fit=section.fit,
        resample=section.resample,
        pad_value=section.pad_value,
        mean=section.mean or mean,
        std=section.std or std,
    )


def _colours(vision: VisionSection, source: DualEncoder | OwlDetector | None) -> tuple[RGB, RGB]:
    """What the image tower's weights were trained with; CLIP's for random ones."""
    if source is not None:
        return source.preprocessing.mean, source.preprocessing.std
    found = None
    if vision.weights == "hub":
        found = published_colours(vision.name)
    elif vision.weights != "random":
        found = read_colours(resolve_folder(vision.weights))
    return found or (CLIP_MEAN, CLIP_STD)


def _tokenizer(
    config: ModelSection, source: DualEncoder | OwlDetector | None, text: TextTower
) -> Tokenizer | None:
    length = text.context_length
    if not text.needs_full_length:
        length = min(length, config.text.context_length or length)
    if config.text.tokenizer is not None:
        return Tokenizer.from_pretrained(config.text.tokenizer, context_length=length)
    if config.text.weights is not None:
        return read_tokenizer(resolve_folder(config.text.weights), length)
    if source is not None and source.tokenizer is not None:
        return source.tokenizer.with_context_length(length)
    return None


def _take_over(detector: OwlDetector, source: DualEncoder | OwlDetector) -> None:
    """Carries over what lies outside the towers: heads, or the contrastive projection."""
    if source.image_projection is not None:
        detector.keep_projection(source.image_projection.weight.data, source.logit_scale.data)
    if isinstance(source, OwlDetector):
        heads = ("merge_norm.", "class_head.", "box_head.", "objectness_head.")
        trained = {k: v for k, v in source.state_dict().items() if k.startswith(heads)}
        own = detector.state_dict()
        load_exactly(
            detector, {**own, **{k: trained[k] for k in trained if k in own}}, source="heads"
        )
