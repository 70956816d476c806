"""From the `vision`, `text` and `preprocessing` sections to the parts of either model."""

from typing import Any, TypeVar

from owlkit.build.paths import filled_in
from owlkit.config import DualEncoderSection, ModelSection, TextSection, VisionSection
from owlkit.encoders.hub import MANIFEST, load_exactly, read_json, resolve_folder
from owlkit.encoders.initialization import init_clip_text, init_clip_vision
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
from owlkit.geometry import CLIP_MEAN, CLIP_STD, RGB, Preprocessing, owlvit_preprocessing
from owlkit.models import DualEncoder, OwlDetector

SectionT = TypeVar("SectionT", ModelSection, DualEncoderSection)

_OWL_IMAGE_SIZE = 768


def fill_in_towers(config: SectionT) -> SectionT:
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


def build_vision(section: VisionSection) -> VisionTower:
    """Makes an image tower from random or trained weights."""
    if section.weights not in ("random", "hub"):
        return adapt_vision(load_vision_tower(section.weights), section)
    if section.weights == "hub":
        trained = VisionTower(section.name, overrides=section.overrides, pretrained=True)
        return adapt_vision(trained, section)
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


def adapt_vision(trained: VisionTower, section: VisionSection) -> VisionTower:
    """The same weights at another image size, with stochastic depth."""
    changes = {"drop_path": section.drop_path, "rescale_dropped": False}
    with SkipRandomInit():
        tower = VisionTower(**{**trained.spec, **changes})
    load_exactly(tower, trained.state_dict(), source=trained.name)
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
    config: ModelSection | DualEncoderSection,
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
    mean, std = _colours(config.vision, source)
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
    if section.weights != "hub":
        folder = resolve_folder(section.weights)
        if (folder / MANIFEST).is_file():
            return Preprocessing.from_dict(read_json(folder / MANIFEST)["preprocessing"])
    return Preprocessing(
        size=tower.image_size, fit="crop", resample="bicubic", mean=CLIP_MEAN, std=CLIP_STD
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
