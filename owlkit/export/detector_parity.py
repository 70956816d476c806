"""A detector's exported graphs against the detector: noise, photographs, few and many queries.

Shapes: B images, P patches, Q queries, L tokens, E embedding width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from owlkit.export.detector_graphs import Size
from owlkit.export.parity import (
    Array,
    GraphRun,
    Parity,
    Tolerance,
    compare,
    largest_difference,
)
from owlkit.export.wrappers import (
    ATTENTION_OUTPUT,
    OBJECTNESS,
    TEXT_OUTPUT,
    AttentionGraph,
    ImageGraph,
    TextGraph,
    example_tokens,
)
from owlkit.geometry import Preprocessing
from owlkit.images import ImageSource, load_image
from owlkit.models.detector import OwlDetector
from owlkit.models.heads import score_queries

BATCHES = (1, 3, 8)
QUERIES = (1, 7, 1203)
# Towers that read all rows to their full length would take minutes for as many texts as that.
_MOST_FULL_TEXTS = 32
_PHOTOGRAPHS_AT_ONCE = 4
_SEED = 20
# What float32 loses in a product of a few hundred terms, relative to the numbers in it.
_ROUNDING = 1e-6


class _Queries(NamedTuple):
    """Unit vectors of the same texts [Q, E]: the model's and the graph's."""

    expected: Tensor
    found: Tensor


@torch.no_grad()
def check_text_graph(
    detector: OwlDetector, path: Path, tolerance: Tolerance
) -> tuple[Parity, list[_Queries]]:
    """Compares the text side on random texts of several numbers and lengths.

    Returns:
        What was compared, and for each of ``QUERIES`` the vectors of both.
    """
    graph, module = GraphRun(path), TextGraph(detector)
    parity, queries = Parity(), []
    lengths = (detector.text.context_length, 4, 6)
    for count, length in zip(QUERIES, lengths, strict=True):
        texts = min(count, _MOST_FULL_TEXTS) if detector.text.needs_full_length else count
        ids, mask = example_tokens(detector.text, texts, length, seed=_SEED + count)
        expected = module(ids, mask)
        found = graph(input_ids=ids.numpy(), attention_mask=mask.numpy())
        parity += compare(
            path.name,
            f"{texts} texts of {ids.shape[1]} tokens",
            found,
            {TEXT_OUTPUT: expected.numpy()},
            {TEXT_OUTPUT: tolerance.embeddings},
        )
        repeated = torch.arange(count) % texts
        queries.append(_Queries(expected[repeated], torch.from_numpy(found[TEXT_OUTPUT])[repeated]))
    return parity, queries


def random_queries(width: int) -> list[_Queries]:
    """Random unit vectors [Q, E] in place of texts, for each of ``QUERIES``."""
    generator = torch.Generator().manual_seed(_SEED)
    vectors = [torch.randn(count, width, generator=generator) for count in QUERIES]
    units = [torch.nn.functional.normalize(each, dim=-1) for each in vectors]
    return [_Queries(each, each) for each in units]


@torch.no_grad()
def check_image_graph(
    detector: OwlDetector,
    path: Path,
    size: Size,
    queries: Sequence[_Queries],
    tolerance: Tolerance,
    photographs: Sequence[ImageSource] = (),
) -> Parity:
    """Compares the image side, and the logits that both sides give together.

    Where a difference is above the tolerance, the model itself is asked again with its input moved
    by as much as rounding does: an untrained model may move by more than that, and no graph can be
    nearer to it than it is to itself. See :attr:`Tolerance.rounding`.

    Args:
        detector: The model as it is, which takes images of any size.
        path: The graph.
        size: (H, W) of the images that the graph takes.
        queries: For each of ``QUERIES``.
        tolerance: Of boxes and logits; the other outputs are reported only.
        photographs: Compared beside noise.
    """
    graph, module, parity = GraphRun(path), ImageGraph(detector), Parity()
    limits = {"boxes": tolerance.boxes, OBJECTNESS: tolerance.logits, "logits": tolerance.logits}
    for index, (pixels, name) in enumerate(_images(detector.preprocessing, size, photographs)):
        asked = queries[index % len(queries)]
        model = partial(_answers, module, asked.expected)
        found = _with_logits(graph(pixels=pixels), asked.found)
        case = f"{name}, {len(asked.expected)} queries"
        parity += _judged(path, case, found, model, pixels, limits, tolerance.rounding)
    return parity


@torch.no_grad()
def check_attention_graph(
    detector: OwlDetector,
    path: Path,
    size: Size,
    tolerance: Tolerance,
    photographs: Sequence[ImageSource] = (),
) -> Parity:
    """Compares attention maps, with the same allowance as :func:`check_image_graph`.

    Args:
        detector: The model as it is, which takes images of any size.
        path: The graph.
        size: (H, W) of the images that the graph takes.
        tolerance: Of attention.
        photographs: Compared beside noise.
    """
    graph, module, parity = GraphRun(path), AttentionGraph(detector), Parity()
    limits = {ATTENTION_OUTPUT: tolerance.attention}

    def maps(pixels: Array) -> dict[str, Array]:
        return {ATTENTION_OUTPUT: module(torch.from_numpy(pixels)).numpy()}

    for pixels, name in _images(detector.preprocessing, size, photographs):
        parity += _judged(
            path, name, graph(pixels=pixels), maps, pixels, limits, tolerance.rounding
        )
    return parity


def _judged(
    path: Path,
    case: str,
    found: Mapping[str, Array],
    model: Callable[[Array], dict[str, Array]],
    pixels: Array,
    limits: Mapping[str, float],
    rounding: float,
) -> Parity:
    """Compares what a graph and a model make of pixels; see :attr:`Tolerance.rounding`."""
    expected = model(pixels)
    compared = compare(path.name, case, found, expected, limits)
    if not rounding or compared.is_accepted:
        return compared
    moved = model(_rounded(pixels))
    wider = {
        key: max(limit, rounding * largest_difference(moved[key], expected[key]))
        for key, limit in limits.items()
        if key in expected
    }
    return compare(path.name, case, found, expected, wider)


def _answers(module: ImageGraph, queries: Tensor, pixels: Array) -> dict[str, Array]:
    outputs = zip(module.outputs, module(torch.from_numpy(pixels)), strict=True)
    return _with_logits({key: value.numpy() for key, value in outputs}, queries)


def _rounded(pixels: Array) -> Array:
    """The same images but for what float32 products round away."""
    noise = np.random.default_rng(_SEED).standard_normal(pixels.shape, dtype=np.float32)
    moved: Array = pixels * (1 + np.float32(_ROUNDING) * noise)
    return moved


def _images(
    preprocessing: Preprocessing, size: Size, photographs: Sequence[ImageSource]
) -> Iterator[tuple[Array, str]]:
    """Model inputs, float32 [B, 3, H, W], with their names."""
    generator = np.random.default_rng(_SEED)
    for batch in BATCHES:
        yield (
            generator.standard_normal((batch, 3, *size), dtype=np.float32),
            f"noise, batch {batch}",
        )
    preprocessing = replace(preprocessing, size=size)
    for start in range(0, len(photographs), _PHOTOGRAPHS_AT_ONCE):
        chunk = photographs[start : start + _PHOTOGRAPHS_AT_ONCE]
        pixels = np.stack([preprocessing(load_image(photograph))[0] for photograph in chunk])
        yield pixels, f"photographs {start} to {start + len(chunk) - 1}"


def _with_logits(outputs: dict[str, Array], queries: Tensor) -> dict[str, Array]:
    """Outputs of an image graph, and the logits [B, P, Q] that they and queries make."""
    tensors = {key: torch.from_numpy(value) for key, value in outputs.items()}
    shift, scale = (tensors[key][..., None] for key in ("logit_shift", "logit_scale"))
    logits = score_queries(tensors["class_embeds"], shift, scale, queries)
    return {**outputs, "logits": logits.numpy()}
