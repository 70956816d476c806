"""What all Hugging Face layouts share: text towers, prefixes, activations, processor files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from owlkit.encoders.pretrained import to_rgb
from owlkit.encoders.text import Pool, TextTower
from owlkit.encoders.vision import VisionTower
from owlkit.errors import CheckpointError
from owlkit.geometry import RGB
from owlkit.json_file import read_json

# What CLIP's, OWL-ViT's and OWLv2's text configurations have in common.
TEXT_SETTINGS = (
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

# The class of an activation in timm's blocks, and its name in Hugging Face's configurations.
ACTIVATIONS = {
    "QuickGELU": "quick_gelu",
    "GELU": "gelu",
    "GELUTanh": "gelu_pytorch_tanh",
    "SiLU": "silu",
}


def activation(vision: VisionTower) -> str:
    """Name of the class of the activation in a vision transformer's blocks."""
    return type(vision.model.blocks[0].mlp.act).__name__


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
    model = CLIPTextModel(CLIPTextConfig(**{name: config[name] for name in TEXT_SETTINGS}))
    return TextTower(
        model,
        pool=pool,
        projection_width=config["projection_dim"],
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )


def to_text_state(tower: TextTower, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Text weights under the keys of a module that holds the tower as ``text``.

    Args:
        tower: The tower.
        state: Weights without the ``text_model.`` prefix, which some releases of transformers put
            before a bare text model's own names and some do not.
    """
    first_key = next(iter(tower.model.state_dict()))
    prefix = "text_model." if first_key.startswith("text_model.") else ""
    return {f"text.model.{prefix}{key}": value for key, value in state.items()}


def make_config(config_class: Any, folder: Path) -> dict[str, Any]:
    """A folder's config.json with everything that it leaves out.

    Raises:
        CheckpointError: If transformers refuses a value.
    """
    try:
        values: dict[str, Any] = config_class(**read_json(folder / "config.json")).to_dict()
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    return values


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
    """Height and width of the model input; files of different ages spell it in four ways.

    Raises:
        CheckpointError: If the setting is none of them.
    """
    size = settings.get("size") or default
    if isinstance(size, Mapping) and "shortest_edge" in size:
        size = settings.get("crop_size") or size["shortest_edge"]
    if isinstance(size, int | float):
        return int(size), int(size)
    try:
        height, width = (size["height"], size["width"]) if isinstance(size, Mapping) else size
        return int(height), int(width)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"image processor: size: expected a number, a pair, or height and width; found {size!r}"
        ) from error


def processor_colours(settings: Mapping[str, Any], mean: RGB, std: RGB) -> tuple[RGB, RGB]:
    """Mean and standard deviation, from the file or the given defaults."""
    return (
        to_rgb(settings.get("image_mean") or mean),
        to_rgb(settings.get("image_std") or std),
    )
