"""The graphs of a model: its image side and attention for one size of input, its text side."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from owlkit.encoders.separate_attention import separate_attention
from owlkit.encoders.text import TextTower
from owlkit.errors import ConfigError
from owlkit.export.graphs import write_graph
from owlkit.export.wrappers import (
    ATTENTION_OUTPUT,
    AttentionGraph,
    ImageGraph,
    example_tokens,
)
from owlkit.models.detector import OwlDetector
from owlkit.models.dual_encoder import DualEncoder

Size = tuple[int, int]
Model = TypeVar("Model", OwlDetector, DualEncoder)


def chosen_sizes(model: OwlDetector | DualEncoder, sizes: Sequence[Size] | None) -> list[Size]:
    """The sizes (H, W) to write graphs for: those asked for, or the model's own.

    Raises:
        ConfigError: If one is named twice.
    """
    chosen = list(sizes or [model.preprocessing.size])
    if len(set(chosen)) != len(chosen):
        raise ConfigError(f"sizes: expected each size once, found {chosen}")
    return chosen


def at_size(model: Model, size: Size) -> Model:
    """The model itself, or a copy whose position table is resampled to another size for good.

    Args:
        model: Stays as it is.
        size: (H, W) of its input in pixels.

    Raises:
        InputSizeError: If the image tower cannot take images of this size.
    """
    if size == model.vision.image_size:
        return model
    # Weights are shared; the table of positions is replaced, not changed.
    shared = {id(each): each for each in (*model.parameters(), model.tokenizer)}
    resized = copy.deepcopy(model, shared)
    resized.vision.set_image_size(size)
    return resized


def write_pixels_graph(
    module: nn.Module, path: Path, *, size: Size, outputs: Sequence[str]
) -> None:
    """Writes a module of pixels [batch, 3, H, W], its attention in the form that runs fastest.

    Args:
        module: In evaluation mode; its ``forward`` takes ``pixels``.
        path: The file.
        size: (H, W).
        outputs: Names of what ``forward`` returns.

    Raises:
        ConfigError: If the module cannot be expressed in standard operators.
    """
    with separate_attention(module):
        write_graph(
            module,
            path,
            inputs={"pixels": torch.zeros(2, 3, *size)},
            outputs=outputs,
            dynamic={"pixels": {0: "batch"}},
        )


def write_image_graph(detector: OwlDetector, path: Path) -> None:
    """Writes pixels [batch, 3, H, W] to class_embeds, boxes, logit_shift, logit_scale, objectness.

    Args:
        detector: At the size that the graph is to take, see :func:`at_size`.
        path: The file.

    Raises:
        ConfigError: If the model cannot be expressed in standard operators.
    """
    module = ImageGraph(detector)
    write_pixels_graph(module, path, size=detector.vision.image_size, outputs=module.outputs)


@torch.no_grad()
def write_attention_graph(detector: OwlDetector, path: Path) -> None:
    """Writes pixels [batch, 3, H, W] to attention [batch, heads, h, w] of the last block.

    Args:
        detector: At the size that the graph is to take, see :func:`at_size`.
        path: The file; holds the weights of the image tower once more.

    Raises:
        ConfigError: If the model cannot be expressed in standard operators.
        TokenError: If the image tower is no vision transformer.
    """
    module, size = AttentionGraph(detector), detector.vision.image_size
    # While a module is traced, its own errors are hidden by the exporter's.
    module(torch.zeros(1, 3, *size))
    write_graph(
        module,
        path,
        inputs={"pixels": torch.zeros(2, 3, *size)},
        outputs=[ATTENTION_OUTPUT],
        dynamic={"pixels": {0: "batch"}},
    )


def write_text_graph(module: nn.Module, text: TextTower, path: Path, *, output: str) -> None:
    """Writes input_ids and attention_mask [query, length] to vectors [query, E].

    The length is fixed for towers that read all rows to the end.

    Args:
        module: Takes the two and returns the vectors.
        text: Says what rows the tower takes.
        path: The file.
        output: Name of the vectors.

    Raises:
        ConfigError: If the model cannot be expressed in standard operators.
    """
    ids, mask = example_tokens(text, 3, 5)
    axes = {0: "query"} if text.needs_full_length else {0: "query", 1: "length"}
    write_graph(
        module,
        path,
        inputs={"input_ids": ids, "attention_mask": mask},
        outputs=[output],
        dynamic={"input_ids": axes, "attention_mask": axes},
    )
