"""What all Hugging Face imports share: text towers, prefixes, image processor files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from owlkit.encoders.hub import load_exactly, read_json
from owlkit.encoders.text import Pool, TextTower
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.geometry import RGB

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")


def take_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below a prefix, without it; stored position ids are dropped.

    Files of older releases keep position ids, which are just 0, 1, 2, ...
    """
    return {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix) and not key.endswith("position_ids")
    }


def clip_text_tower(
    config: Mapping[str, Any], *, pool: Pool, eos_token_id: int | None, pad_token_id: int
) -> TextTower:
    """An untrained CLIP text tower of a Hugging Face text configuration.

    The projection is as wide as the tower, unless ``projection_dim`` says otherwise.

    Args:
        config: Complete values of a CLIP, OWL-ViT or OWLv2 text configuration.
        pool: Where the sentence vector is taken.
        eos_token_id: The end token that rows must have; None if unknown.
        pad_token_id: First token of a row that is padding.
    """
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "hidden_act",
        "layer_norm_eps",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    )
    model = CLIPTextModel(CLIPTextConfig(**{name: config[name] for name in names}))
    return TextTower(
        model,
        pool=pool,
        projection_width=config["projection_dim"],
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )


def load_text_weights(tower: TextTower, state: Mapping[str, Tensor], *, source: Path) -> None:
    """Fills a tower's transformers model.

    Args:
        tower: The tower.
        state: Weights without the ``text_model.`` prefix, which some releases of transformers put
            before a bare text model's own names and some do not.
        source: Named in errors.

    Raises:
        CheckpointError: If keys or shapes differ.
    """
    model = tower.model
    own_prefix = "text_model." if next(iter(model.state_dict())).startswith("text_model.") else ""
    load_exactly(
        model, {f"{own_prefix}{key}": value for key, value in state.items()}, source=source
    )


def text_weights(tower: TextTower) -> dict[str, Tensor]:
    """A tower's transformers weights without the ``text_model.`` prefix."""
    return {
        key.removeprefix("text_model."): value for key, value in tower.model.state_dict().items()
    }


def read_processor(folder: Path) -> dict[str, Any]:
    """Settings of the image processor; empty if the folder has none.

    transformers 5 may keep them inside ``processor_config.json``.
    """
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        settings: dict[str, Any] = read_json(folder / "processor_config.json").get(
            "image_processor", {}
        )
        return settings
    return {}


def processor_size(settings: Mapping[str, Any], default: int) -> tuple[int, int]:
    """Height and width of the model input; files of different ages spell it in four ways."""
    size = settings.get("size", default)
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            size = settings.get("crop_size", size["shortest_edge"])
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def processor_colours(settings: Mapping[str, Any], mean: RGB, std: RGB) -> tuple[RGB, RGB]:
    """Mean and standard deviation, from the file or the given defaults."""
    return (
        _triple(settings.get("image_mean") or mean),
        _triple(settings.get("image_std") or std),
    )


def _triple(values: Any) -> RGB:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def read_tokenizer(folder: Path, context_length: int) -> Tokenizer | None:
    """The folder's tokenizer; None if it has none."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    return Tokenizer.from_pretrained(folder, context_length=context_length)
