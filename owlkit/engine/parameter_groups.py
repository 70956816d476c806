"""Which weights learn, how fast, and which of them decay.

A model has three parts: the image tower (``vision``), the text tower (``text``) and everything
else, the heads. Within a tower, depth decides: what is registered before the first numbered block
is its embedding, what comes behind the last block its top.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from owlkit.config import OptimSection
from owlkit.errors import ConfigError, MissingDependencyError

Part = Literal["image", "text", "heads"]

_TOWERS: dict[str, Part] = {"vision": "image", "text": "text"}
# Where a tower is: in a model, in the task around it, or in the student that learns beside the
# task's own model.
_PLACE = re.compile(r"^(?:model\.|student\.)?[^.]+")
# The patch embedding, in timm's words.
_PATCHES = ".patch_embed."
# `blocks.3` in timm's transformers, `stages.3` and `layer3` in its convolutional networks,
# `layers.3` and `layer.3` in transformers. The outermost number counts: a stage, not its blocks.
_BLOCK = re.compile(r"(?:^|\.)(?:blocks\.|stages\.|layers\.|layer\.?)(\d+)\.")


def part_of(name: str) -> Part:
    """The part of a model, or of a task around it, to which a weight belongs.

    Example:
        >>> part_of("vision.model.pos_embed"), part_of("model.text.projection.weight")
        ('image', 'text')
        >>> part_of("student.vision.model.pos_embed"), part_of("class_head.logit_scale.weight")
        ('image', 'heads')
    """
    return _TOWERS.get(_place_of(name).rpartition(".")[2], "heads")


def towers_of(model: nn.Module) -> dict[Part, nn.Module]:
    """The image and text tower of a model, as far as it has them."""
    children = dict(model.named_children())
    return {part: children[name] for name, part in _TOWERS.items() if name in children}


def freeze_parts(task: nn.Module, model: nn.Module, parts: tuple[Part, ...]) -> None:
    """Lets parts keep their weights; frozen towers also run as in evaluation.

    A frozen tower without stochastic depth and with fixed batch statistics is the encoder that it
    was trained to be.

    Args:
        task: The module whose weights are trained.
        model: Its model, which has the towers.
        parts: What to freeze.
    """
    for name, parameter in task.named_parameters():
        if part_of(name) in parts:
            parameter.requires_grad_(False)
    for part, tower in towers_of(model).items():
        if part in parts:
            tower.eval()


def parameter_groups(task: nn.Module, optim: OptimSection) -> list[dict[str, Any]]:
    """Groups the weights that learn for a torch optimiser.

    Weight decay acts on the ``weight`` matrices and kernels of layers, as in the original OWL-ViT
    code: not on biases, norms, layer scales, temperatures, positions, class, register and mask
    tokens, nor on embedding tables, whose rows would shrink whenever their token is not seen.

    Layer decay follows BEiT, 2021, https://arxiv.org/abs/2106.08254: the top of a tower and the
    heads learn at full rate, each block below by ``optim.layer_decay`` slower than the one above.

    Args:
        task: Module whose weights with ``requires_grad`` are grouped, each exactly once.
        optim: Rates and decays.

    Returns:
        Groups with ``params`` as (name, parameter) pairs, ``lr`` and ``peak_lr`` (equal),
        ``weight_decay``, whether it ``decays``, and ``part``.

    Raises:
        ConfigError: If nothing is left to learn, or there is no patch embedding for
            ``optim.embed_lr_factor``.
    """
    no_decay = set(_undecayed(task))
    scales = _scales(task, optim)
    groups: dict[tuple[Part, float, bool], dict[str, Any]] = {}
    for name, parameter in task.named_parameters():
        if not parameter.requires_grad:
            continue
        part, scale, decays = part_of(name), scales[name], name not in no_decay
        rate = _peak_rates(optim)[part] * scale
        group = groups.setdefault(
            (part, scale, decays),
            {
                "params": [],
                "lr": rate,
                "peak_lr": rate,
                "weight_decay": optim.weight_decay if decays else 0.0,
                "decays": decays,
                "part": part,
            },
        )
        group["params"].append((name, parameter))
    if not groups:
        raise ConfigError(f"optim.freeze {list(optim.freeze)} leaves no weight to learn")
    return list(groups.values())


def make_optimizer(task: nn.Module, optim: OptimSection) -> Optimizer:
    """Adam, AdamW or SGD over the groups of :func:`parameter_groups`.

    As in the original OWL-ViT code, ``optim.eps`` is added outside of the root. ``adamw8bit`` keeps
    the moments of tensors of 4096 and more numbers in 8 bits, quantised by blocks of 256:
    8-bit Optimizers via Block-wise Quantization, 2021, https://arxiv.org/abs/2110.02861.

    Args:
        task: Module whose weights with ``requires_grad`` learn.
        optim: Optimiser, rates and decays.

    Raises:
        ConfigError: If nothing is left to learn.
        MissingDependencyError: If ``adamw8bit`` needs a package that is not installed.
    """
    groups = parameter_groups(task, optim)
    if optim.optimizer == "adamw8bit":
        optimizer: Optimizer = _adamw8bit()(groups, betas=optim.betas, eps=optim.eps)
        return optimizer
    if optim.optimizer == "sgd":
        # Fused, it cannot take in weights whose first gradient comes late, as prototypes' may.
        return SGD(groups, lr=optim.lr, momentum=optim.betas[0], foreach=True)
    kind = AdamW if optim.optimizer == "adamw" else Adam
    return kind(groups, betas=optim.betas, eps=optim.eps, fused=True)


def _adamw8bit() -> Any:
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError as error:
        raise MissingDependencyError(
            "optim.optimizer adamw8bit needs bitsandbytes, which is not installed; "
            "run: pip install 'owlkit[train]'"
        ) from error
    return AdamW8bit


def _peak_rates(optim: OptimSection) -> Mapping[Part, float]:
    return {
        "image": optim.lr,
        "text": optim.text_lr or optim.lr,
        "heads": optim.heads_lr or optim.lr,
    }


def _undecayed(task: nn.Module) -> Iterator[str]:
    """Names of the weights that weight decay leaves alone."""
    for owner_name, owner in task.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            # `in_proj_weight` of torch's attention is a matrix, too.
            is_kernel = name.endswith("weight") and parameter.ndim >= 2
            if not is_kernel or isinstance(owner, nn.Embedding):
                yield f"{owner_name}.{name}" if owner_name else name


def _scales(task: nn.Module, optim: OptimSection) -> dict[str, float]:
    """Factor of the learning rate of every weight, by its place in its tower."""
    scales = _layer_scales(task, optim.layer_decay)
    if optim.embed_lr_factor == 1.0:
        return scales
    embedding = [name for name in scales if part_of(name) == "image" and _PATCHES in name]
    if not embedding:
        raise ConfigError(
            "optim.embed_lr_factor: expected an image tower with a patch embedding, found none; "
            "leave it at 1"
        )
    return scales | {name: scales[name] * optim.embed_lr_factor for name in embedding}


def _layer_scales(task: nn.Module, decay: float) -> dict[str, float]:
    """Factor of the learning rate of every weight, by its depth in its tower."""
    levels: dict[str, int] = {}
    first: dict[str, int] = {}
    top: dict[str, int] = {}
    for name, _ in task.named_parameters():
        place, block = _place_of(name), _BLOCK.search(name)
        # Weights are listed in the order in which they were registered: before the first numbered
        # block comes what embeds (level 0), behind the last what is as high as the top.
        levels[name] = top.get(place, 0)
        if block:
            number = int(block[1])
            levels[name] = 1 + number - first.setdefault(place, number)
            top[place] = max(top.get(place, 0), levels[name] + 1)
    return {
        name: 1.0 if part_of(name) == "heads" else decay ** (top.get(_place_of(name), 0) - level)
        for name, level in levels.items()
    }


def _place_of(name: str) -> str:
    """The tower of a weight: a teacher's is another one than its student's."""
    place = _PLACE.match(name)
    return place[0] if place else ""
