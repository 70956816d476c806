"""From the `model` section to a detector or a dual encoder."""

from typing import Any, TypeVar

import torch

from owlkit.build.paths import filled_in
from owlkit.config import DualEncoderSection, ModelSection, TextSection, VisionSection
from owlkit.encoders.hub import load_exactly, resolve_folder
from owlkit.encoders.initialization import init_clip_text, init_clip_vision
from owlkit.encoders.pretrained import load_vision_tower, published_colours, read_colours
from owlkit.encoders.skip_init import SkipRandomInit
from owlkit.encoders.text import (
    CLIP_EMBED_WIDTH,
    CLIP_VOCAB_SIZE,
    OWL_CONTEXT_LENGTH,
    TextTower,
    create_text_tower,
    is_clip,
    load_text_tower,
    shorten_context,
)
from owlkit.encoders.tokenizer import Tokenizer, read_tokenizer
from owlkit.encoders.vision import VisionTower
from owlkit.errors import ConfigError
from owlkit.geometry import CLIP_MEAN, CLIP_STD, RGB, Preprocessing, owlvit_preprocessing
from owlkit.models import DualEncoder, OwlDetector
from owlkit.models.convention import resolve_convention
from owlkit.models.loading import load_model

SectionT = TypeVar("SectionT", ModelSection, DualEncoderSection)

_OWL_IMAGE_SIZE = 768


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
    config = _filled_in(config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        source = _source(config)
        if source is None:
            vision, text = _build_vision(config.vision), _build_text(config.text)
        else:
            vision, text = _adapt_vision(source.vision, config.vision), source.text
        text = _fit_context(text, config.text.context_length, keep=isinstance(source, OwlDetector))
        text.drop_path = config.text.drop_path
        detector = OwlDetector(
            vision,
            text,
            preprocessing=_preprocessing(config, vision, source),
            **_head_settings(config, source),
            prior_prob=config.heads.prior_prob,
            tokenizer=_tokenizer(config, source, text),
        )
    if source is not None:
        _take_over(detector, source)
    return detector.train()


def build_dual_encoder(config: DualEncoderSection, *, seed: int = 0) -> DualEncoder:
    """Makes a pair of towers to be trained on images and captions.

    Args:
        config: The ``model`` section.
        seed: Of random weights; the global random state is left as it was.

    Returns:
        The model in training mode, float32, on the CPU.

    Raises:
        ConfigError: If the sections do not fit together.
        CheckpointError: If weights to start from are missing or do not fit.
    """
    config = _filled_in(config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = _fit_context(_build_text(config.text), config.text.context_length)
        text.drop_path = config.text.drop_path
        vision = _build_vision(config.vision)
        model = DualEncoder(
            vision,
            text,
            preprocessing=_preprocessing(config, vision, None),
            tokenizer=_tokenizer(config, None, text),
        )
    return model.train()


def _filled_in(config: SectionT) -> SectionT:
    """The section with ``~`` and environment variables filled in."""
    vision, text = config.vision, config.text
    vision = vision.model_copy(
        update={"weights": filled_in(vision.weights, key="model.vision.weights")}
    )
    text = text.model_copy(
        update={
            key: filled_in(value, key=f"model.text.{key}")
            for key, value in (("weights", text.weights), ("tokenizer", text.tokenizer))
            if value is not None
        }
    )
    return config.model_copy(update={"vision": vision, "text": text})


def _source(config: ModelSection) -> DualEncoder | OwlDetector | None:
    """The model whose weights start the detector."""
    if config.init_from is None:
        return None
    return load_model(filled_in(config.init_from, key="model.init_from"), config.convention)


def _head_settings(
    config: ModelSection, source: DualEncoder | OwlDetector | None
) -> dict[str, Any]:
    """What is not stated is as in the source if that is a detector, else as published."""
    heads = config.heads
    if isinstance(source, OwlDetector):
        merge, convention = source.merge, source.convention
        objectness = source.objectness_head is not None
    else:
        merge, convention = "class_token", resolve_convention(config.convention or "scenic")
        objectness = False
    return {
        "merge": heads.merge or merge,
        "objectness": objectness if heads.objectness is None else heads.objectness,
        "convention": convention,
    }


def _build_vision(section: VisionSection) -> VisionTower:
    if section.weights not in ("random", "hub"):
        return _adapt_vision(load_vision_tower(section.weights), section)
    if section.weights == "hub":
        trained = VisionTower(section.name, overrides=section.overrides, pretrained=True)
        return _adapt_vision(trained, section)
    image_size = section.image_size or _OWL_IMAGE_SIZE
    tower = VisionTower(
        section.name,
        image_size=image_size,
        positions=section.positions,
        drop_path=section.drop_path,
        rescale_dropped=False,
        overrides=section.overrides,
    )
    tower.set_image_size(image_size)  # refuses what is no multiple of the patch size
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
    tower.set_image_size(section.image_size or trained.image_size)
    tower.gradient_checkpointing = section.gradient_checkpointing
    return tower


def _build_text(section: TextSection) -> TextTower:
    if section.weights is not None:
        return load_text_tower(
            section.weights, pool=section.pool, projection_width=section.embed_width
        )
    tower = create_text_tower(
        width=section.width,
        depth=section.depth,
        heads=section.heads,
        vocab_size=section.vocab_size or _vocab_size(section),
        context_length=section.context_length or OWL_CONTEXT_LENGTH,
        embed_width=section.embed_width or CLIP_EMBED_WIDTH,
        activation=section.activation,
        pool=section.pool or "argmax",
    )
    init_clip_text(tower)
    return tower


def _vocab_size(section: TextSection) -> int:
    """Number of ids of the tokenizer, or of CLIP's."""
    if section.tokenizer is None:
        return CLIP_VOCAB_SIZE
    return Tokenizer.from_pretrained(section.tokenizer).vocab_size


def _fit_context(text: TextTower, context_length: int | None, *, keep: bool = False) -> TextTower:
    """The tower for texts of the wanted length; only CLIP's has one position per token to cut.

    Args:
        text: The tower as it came.
        context_length: The wanted length in tokens; None for what belongs to the tower.
        keep: Whether its own length belongs to it; else CLIP's becomes OWL-ViT's.
    """
    longest = text.context_length
    if is_clip(text):
        wanted = context_length or (longest if keep else min(OWL_CONTEXT_LENGTH, longest))
        return text if wanted == longest else shorten_context(text, wanted)
    if context_length is not None and context_length > longest:
        raise ConfigError(
            f"model.text.context_length: expected at most the {longest} tokens that the text tower "
            f"has positions for, found {context_length}"
        )
    if text.needs_full_length and context_length not in (None, longest):
        raise ConfigError(
            f"model.text.context_length: expected {longest} or null, because the text tower reads "
            f"its last position, found {context_length}"
        )
    return text


def _preprocessing(
    config: ModelSection | DualEncoderSection,
    vision: VisionTower,
    source: DualEncoder | OwlDetector | None,
) -> Preprocessing:
    """What is not stated is as in the source if that is a detector, else as published."""
    section = config.preprocessing
    if isinstance(source, OwlDetector):
        own = source.preprocessing
    else:
        own = owlvit_preprocessing(vision.image_size, "scenic")
    mean, std = _colours(config.vision, source)
    return Preprocessing(
        size=vision.image_size,
        fit=section.fit or own.fit,
        resample=section.resample or own.resample,
        pad_value=own.pad_value if section.pad_value is None else section.pad_value,
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
    config: ModelSection | DualEncoderSection,
    source: DualEncoder | OwlDetector | None,
    text: TextTower,
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
