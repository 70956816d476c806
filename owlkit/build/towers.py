"""From the `vision`, `text` and `preprocessing` sections to the parts of either model."""

from typing import Any, TypeVar

import torch

from owlkit.build.paths import filled_in
from owlkit.config import (
    BackboneSection,
    DualEncoderSection,
    ModelSection,
    TextSection,
    VisionSection,
)
from owlkit.encoders.hub import MANIFEST, load_exactly, resolve_folder
from owlkit.encoders.initialization import init_clip_text, init_clip_vision, init_mae_vision
from owlkit.encoders.pretrained import load_vision_tower, published_colours, read_colours
from owlkit.encoders.siglip_text import CONTEXT_LENGTH as SIGLIP_CONTEXT_LENGTH
from owlkit.encoders.siglip_text import create_siglip_text_tower
from owlkit.encoders.skip_init import SkipRandomInit
from owlkit.encoders.text import (
    CLIP_EMBED_WIDTH,
    CLIP_VOCAB_SIZE,
    TextTower,
    create_text_tower,
    is_clip,
    load_text_tower,
    shorten_context,
)
from owlkit.encoders.tokenizer import Tokenizer, read_tokenizer
from owlkit.encoders.vision import VisionTower
from owlkit.errors import ConfigError
from owlkit.geometry import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    RGB,
    Preprocessing,
    owlvit_preprocessing,
)
from owlkit.json_file import read_json
from owlkit.models import DualEncoder, OwlDetector

SectionT = TypeVar("SectionT", ModelSection, DualEncoderSection)

_OWL_IMAGE_SIZE = 768


def fill_in_towers(config: SectionT) -> SectionT:
    """The section with ``~`` and environment variables filled in."""
    vision, text = fill_in_weights(config.vision), config.text
    text = text.model_copy(
        update={
            key: filled_in(value, key=f"model.text.{key}")
            for key, value in (("weights", text.weights), ("tokenizer", text.tokenizer))
            if value is not None
        }
    )
    return config.model_copy(update={"vision": vision, "text": text})


def fill_in_weights(section: VisionSection) -> VisionSection:
    """The section with ``~`` and environment variables filled in."""
    weights = filled_in(section.weights, key="model.vision.weights")
    return section.model_copy(update={"weights": weights})


def build_vision(
    section: VisionSection,
    *,
    random_size: int = _OWL_IMAGE_SIZE,
    rescale_dropped: bool = False,
    mask_token: bool = False,
) -> VisionTower:
    """Makes an image tower from random or trained weights.

    Args:
        section: ``model.vision``.
        random_size: Side of the input in pixels of random weights, if the section names none.
        rescale_dropped: Whether stochastic depth divides what it keeps; OWL-ViT's does not.
        mask_token: Whether the tower has a token for masked patches.
    """
    if section.weights not in ("random", "hub"):
        trained = load_vision_tower(section.weights)
        return adapt_vision(
            trained, section, rescale_dropped=rescale_dropped, mask_token=mask_token
        )
    if section.weights == "hub":
        trained = VisionTower(section.name, overrides=section.overrides, pretrained=True)
        return adapt_vision(
            trained, section, rescale_dropped=rescale_dropped, mask_token=mask_token
        )
    image_size = section.image_size or random_size
    tower = VisionTower(
        section.name,
        image_size=image_size,
        positions=section.positions,
        drop_path=section.drop_path,
        uniform_drop_path=section.uniform_drop_path,
        rescale_dropped=rescale_dropped,
        mask_token=mask_token,
        overrides=section.overrides,
    )
    tower.set_image_size(image_size)  # refuses what is no multiple of the patch size
    if section.init == "clip":
        init_clip_vision(tower)
    elif section.init == "mae":
        init_mae_vision(tower)
    tower.gradient_checkpointing = section.gradient_checkpointing
    return tower


def adapt_vision(
    trained: VisionTower,
    section: VisionSection,
    *,
    rescale_dropped: bool = False,
    mask_token: bool = False,
) -> VisionTower:
    """The same weights at another image size, with stochastic depth.

    Args:
        trained: The tower as it came.
        section: ``model.vision``.
        rescale_dropped: Whether stochastic depth divides what it keeps.
        mask_token: Whether the result has a token for masked patches; one that the trained tower
            lacks begins at zero, one that nobody asks for is left behind.
    """
    changes = {
        "drop_path": section.drop_path,
        "uniform_drop_path": section.uniform_drop_path,
        "rescale_dropped": rescale_dropped,
        "mask_token": mask_token,
    }
    with SkipRandomInit():
        tower = VisionTower(**{**trained.spec, **changes})
    weights = trained.state_dict()
    if not mask_token:
        weights.pop("mask_token", None)
    elif tower.mask_token is not None:
        weights.setdefault("mask_token", torch.zeros_like(tower.mask_token))
    load_exactly(tower, weights, source=trained.name)
    tower.positions = section.positions or trained.positions
    tower.set_image_size(section.image_size or trained.image_size)
    tower.gradient_checkpointing = section.gradient_checkpointing
    return tower


def build_text(section: TextSection, *, context_length: int) -> TextTower:
    """Makes a text tower.

    Args:
        section: ``model.text``.
        context_length: Of a CLIP tower with random weights, if the section names none.
    """
    if section.weights is not None:
        return load_text_tower(
            section.weights, pool=section.pool, projection_width=section.embed_width
        )
    sizes: dict[str, Any] = {
        "width": section.width,
        "depth": section.depth,
        "heads": section.heads,
        "vocab_size": section.vocab_size or _vocab_size(section),
        "embed_width": section.embed_width or CLIP_EMBED_WIDTH,
        "activation": section.activation,
    }
    if section.architecture == "siglip":
        length = section.context_length or SIGLIP_CONTEXT_LENGTH
        return create_siglip_text_tower(context_length=length, **sizes)
    tower = create_text_tower(
        context_length=section.context_length or context_length,
        pool=section.pool or "argmax",
        **sizes,
    )
    init_clip_text(tower)
    return tower


def _vocab_size(section: TextSection) -> int:
    """Number of ids of the tokenizer, or of CLIP's."""
    if section.tokenizer is None:
        return CLIP_VOCAB_SIZE
    return Tokenizer.from_pretrained(section.tokenizer).vocab_size


def fit_context(
    text: TextTower, context_length: int | None, *, clip_length: int | None = None
) -> TextTower:
    """The tower for texts of the wanted length; only CLIP's has one position per token to cut.

    Args:
        text: The tower as it came.
        context_length: The wanted length in tokens; None for what belongs to the tower.
        clip_length: What CLIP's becomes where ``context_length`` is None; None keeps its own.
    """
    longest = text.context_length
    if is_clip(text):
        wanted = context_length or min(clip_length or longest, longest)
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


def prepare_text(text: TextTower, section: TextSection) -> None:
    """Sets what only matters in training."""
    text.drop_path = section.drop_path
    if section.gradient_checkpointing:
        # The name changed between the releases of transformers that owlkit takes.
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
        enable = next(name for name in names if hasattr(text.model, name))
        getattr(text.model, enable)({"use_reentrant": False})


def build_preprocessing(
    config: ModelSection | DualEncoderSection | BackboneSection,
    vision: VisionTower,
    source: DualEncoder | OwlDetector | None,
    *,
    own: Preprocessing,
) -> Preprocessing:
    """How pictures become the tower's input.

    Args:
        config: The ``model`` section.
        vision: The image tower, which says how large its input is.
        source: The model whose weights and colours the tower has, if any.
        own: Holds for what the section does not state.
    """
    section = config.preprocessing
    mean, std = _colours(config.vision, source) or (own.mean, own.std)
    return Preprocessing(
        size=vision.image_size,
        fit=section.fit or own.fit,
        resample=section.resample or own.resample,
        pad_value=own.pad_value if section.pad_value is None else section.pad_value,
        mean=section.mean or mean,
        std=section.std or std,
    )


def own_preprocessing(section: VisionSection, tower: VisionTower) -> Preprocessing:
    """What an image tower was trained on, or, with random weights, will be.

    A folder of owlkit's says so. Other trained towers have seen the centre of pictures.
    """
    if section.weights == "random":
        return owlvit_preprocessing(tower.image_size, "scenic")
    return _stored_preprocessing(section) or Preprocessing(
        size=tower.image_size, fit="crop", resample="bicubic", mean=CLIP_MEAN, std=CLIP_STD
    )


def backbone_preprocessing(section: VisionSection, tower: VisionTower) -> Preprocessing:
    """What an image tower without a text tower was trained on or will be.

    A folder of owlkit's says so. Else it is the centre of pictures in ImageNet's colours.
    """
    return _stored_preprocessing(section) or Preprocessing(
        size=tower.image_size, fit="crop", resample="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD
    )


def _stored_preprocessing(section: VisionSection) -> Preprocessing | None:
    """What a folder of owlkit's says about the images of its tower."""
    if section.weights in ("random", "hub"):
        return None
    folder = resolve_folder(section.weights)
    if not (folder / MANIFEST).is_file():
        return None
    return Preprocessing.from_dict(read_json(folder / MANIFEST)["preprocessing"])


def _colours(
    vision: VisionSection, source: DualEncoder | OwlDetector | None
) -> tuple[RGB, RGB] | None:
    """What the image tower's weights were trained with, if that is known."""
    if source is not None:
        return source.preprocessing.mean, source.preprocessing.std
    if vision.weights == "hub":
        return published_colours(vision.name)
    if vision.weights != "random":
        return read_colours(resolve_folder(vision.weights))
    return None


def build_tokenizer(
    config: ModelSection | DualEncoderSection,
    source: DualEncoder | OwlDetector | None,
    text: TextTower,
) -> Tokenizer | None:
    """The tokenizer that is stated, or belongs to the text weights, or to the source; else None."""
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
