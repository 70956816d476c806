"""Makes timm's models as the image tower needs them: without classifier, for images of any size."""

from functools import partial
from typing import Any

import timm
from timm.layers.drop import DropPath
from timm.layers.mlp import SwiGLUPacked
from timm.layers.norm import LayerNorm
from timm.models import is_model_in_modules

from owlkit.encoders.conv_stem import ConvStem
from owlkit.errors import CheckpointError, ConfigError

Override = int | float | bool | str

_VIT_MODULES = ("vision_transformer", "deit", "eva")
_PLAIN_MODULES = ("vision_transformer", "deit")
_WINDOWED_MODULES = ("swin_transformer",)


def is_vision_transformer(name: str) -> bool:
    """Whether timm's architecture of this name runs block by block on tokens of patches."""
    return bool(is_model_in_modules(name, _VIT_MODULES))


def default_image_size(name: str) -> int:
    """Side of the input that timm publishes an architecture for, in pixels; 224 if for none."""
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        config = None
    return int(config.input_size[-1]) if config is not None else 224


def create_timm_model(name: str, image_size: tuple[int, int], given: dict[str, Override]) -> Any:
    """Makes a timm model.

    Args:
        name: Architecture.
        image_size: Height and width its position table is made for, in pixels.
        given: Arguments of timm's constructor, and the overrides that
            :class:`~owlkit.encoders.VisionTower` understands.

    Raises:
        ConfigError: If timm does not know the architecture or an argument, or the tower would
            arrange its tokens wrongly.
        CheckpointError: If published weights are asked for and cannot be had.
    """
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:3]
        raise ConfigError(f"timm does not know the architecture {name!r}; near: {', '.join(near)}")
    arguments = timm_arguments(name, image_size, given)
    try:
        model = timm.create_model(name, **arguments)
    except TypeError as error:
        raise ConfigError(f"timm cannot build {name} with {given}: {error}") from error
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"the hub gives no weights for {name}: {error}") from error
    _check_supported(name, model)
    return model


def timm_arguments(
    name: str, image_size: tuple[int, int], given: dict[str, Override]
) -> dict[str, Any]:
    """What timm's constructor is called with; see :func:`create_timm_model`."""
    arguments: dict[str, Any] = {"num_classes": 0, **given}
    if is_vision_transformer(name):
        arguments |= {"img_size": image_size, "dynamic_img_size": True}
        if "dinov3" in name:
            # As its authors use it; timm's default would be the mean.
            arguments.setdefault("global_pool", "token")
        if "norm_eps" in arguments:
            arguments["norm_layer"] = partial(LayerNorm, eps=arguments.pop("norm_eps"))
        if arguments.pop("mlp", None) == "swiglu":
            arguments["mlp_layer"] = SwiGLUPacked
            arguments.setdefault("act_layer", "silu")  # the "Swi" of its name
        _choose_stem(name, arguments)
    elif is_model_in_modules(name, _WINDOWED_MODULES):
        # Windows keep their published size and are cut for each input.
        arguments |= {"strict_img_size": False}
    return arguments


def _choose_stem(name: str, arguments: dict[str, Any]) -> None:
    """Replaces the override ``stem`` by what timm understands."""
    stem = arguments.pop("stem", None)
    if stem is None:
        return
    if stem != "conv" or not is_model_in_modules(name, _PLAIN_MODULES):
        raise ConfigError(
            f"stem: expected 'conv', on one of timm's plain vision transformers (module "
            f"vision_transformer or deit); found {stem!r} on {name}"
        )
    arguments["embed_layer"] = ConvStem


def _check_supported(name: str, model: Any) -> None:
    """Refuses transformers whose tokens this class would arrange wrongly."""
    if getattr(model, "dist_token", None) is not None:
        raise ConfigError(f"{name}: towers with a distillation token are not supported")
    if getattr(model, "rope_mixed", False):
        raise ConfigError(f"{name}: towers with mixed rotary positions are not supported")


def set_drop_paths(name: str, model: Any, rate: float, *, rescale: bool, uniform: bool) -> None:
    """Sets up stochastic depth in the way that timm's constructors do not offer.

    Args:
        name: Architecture of the model.
        model: Made with this rate, which then rises linearly from 0 at the first block.
        rate: In [0, 1).
        rescale: Divide kept branches by their probability of being kept.
        uniform: Give every block the rate itself.

    Raises:
        ConfigError: If the rate is to be uniform in what is no vision transformer.
    """
    if uniform and not is_vision_transformer(name):
        raise ConfigError(
            f"uniform_drop_path: expected a vision transformer, found {name}, whose rates rise"
        )
    if uniform and rate > 0:
        for block in model.blocks:
            block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
    for module in model.modules():
        if isinstance(module, DropPath):
            module.scale_by_keep = rescale
