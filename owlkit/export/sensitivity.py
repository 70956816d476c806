"""Which layers lose most in 8 bits, by measurement at the outputs of the whole graph.

Shapes: B images, P patches, E embedding width.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from owlkit.export.model_file import save_model
from owlkit.export.parity import Array, GraphRun

Build = Callable[[Sequence[int]], onnx.ModelProto]
"""Gives the graph with the layers of these places in 8 bits."""

_QUERIES = 64
_SEED = 20


def output_error(found: dict[str, Array], expected: dict[str, Array]) -> float:
    """How far outputs are from what they should be, as a share of how much they vary.

    The root of the mean squared difference over that of the deviation from the mean; the largest of
    all outputs. Of detectors' embeddings, shift and scale count what they are for: the logits, here
    of some of the expected embeddings as queries.

    Args:
        found: Outputs by name [B, ...].
        expected: The same of the graph in float32.

    Returns:
        0 for equal outputs; about 1 for outputs that have nothing to do with the images.
    """
    if "class_embeds" in expected:
        queries = _queries(expected["class_embeds"])
        found, expected = _judged(found, queries), _judged(expected, queries)
    errors = []
    for name, right in expected.items():
        # Each number is compared with itself on other images and patches.
        centred = right - right.reshape(-1, right.shape[-1]).mean(axis=0)
        spread = np.sqrt(np.mean(np.square(centred, dtype=np.float64)))
        error = np.sqrt(np.mean(np.square(found[name] - right, dtype=np.float64)))
        errors.append(error / max(spread, np.finfo(np.float32).tiny))
    # A value that is no number is as wrong as can be.
    return float(np.nan_to_num(np.max(errors), nan=np.inf))


def _queries(embeds: Array) -> Array:
    """Unit vectors of some patches [Q, E]."""
    flat = embeds.reshape(-1, embeds.shape[-1])
    chosen = np.random.default_rng(_SEED).permutation(len(flat))[:_QUERIES]
    return _units(flat[chosen])


def _units(embeds: Array) -> Array:
    units: Array = embeds / (np.linalg.norm(embeds, axis=-1, keepdims=True) + np.float32(1e-6))
    return units


def _judged(outputs: dict[str, Array], queries: Array) -> dict[str, Array]:
    shift, scale = (outputs[name][..., None] for name in ("logit_shift", "logit_scale"))
    judged = {
        "logits": (_units(outputs["class_embeds"]) @ queries.T + shift) * scale,
        "boxes": outputs["boxes"],
    }
    if "objectness" in outputs:
        judged["objectness"] = outputs["objectness"][..., None]
    return judged


@dataclass(frozen=True)
class Choice:
    """Layers that stay in float32.

    Attributes:
        kept: Their places, the most sensitive first.
        error: See :func:`output_error`, with all others in 8 bits.
    """

    kept: tuple[int, ...]
    error: float


class Sensitivity:
    """Measures a graph with some layers in 8 bits.

    Args:
        model: In float32.
        build: Makes the graph with some layers in 8 bits.
        count: How many layers there are.
        inputs: Of one or several runs that are compared.
    """

    def __init__(
        self, model: onnx.ModelProto, build: Build, count: int, inputs: Sequence[dict[str, Array]]
    ) -> None:
        self._build = build
        self._count = count
        self._inputs = inputs
        self._expected = self._outputs(model)

    def _outputs(self, model: onnx.ModelProto) -> dict[str, Array]:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "graph.onnx"
            save_model(model, path)
            run = GraphRun(path)
            runs = [run(**each) for each in self._inputs]
        return {name: np.concatenate([each[name] for each in runs]) for name in runs[0]}

    def error(self, places: Sequence[int]) -> float:
        """The error of the graph with the layers of these places in 8 bits."""
        return output_error(self._outputs(self._build(places)), self._expected)

    @cached_property
    def single(self) -> tuple[float, ...]:
        """The error of each layer when it alone is in 8 bits."""
        return tuple(self.error([place]) for place in range(self._count))

    @cached_property
    def ranking(self) -> tuple[int, ...]:
        """Places, the most sensitive first."""
        return tuple(sorted(range(self._count), key=lambda place: -self.single[place]))

    def without(self, number: int) -> Choice:
        """The choice that keeps the so many most sensitive layers in float32."""
        kept = self.ranking[:number] if number else ()
        return Choice(kept, self.error([each for each in range(self._count) if each not in kept]))

    def within(self, limit: float) -> Choice:
        """The choice that keeps as few layers in float32 as the limit of the error allows.

        Layers are kept in the order of the ranking, and the error is taken to fall with each.
        """
        best = self.without(0)
        if best.error <= limit:
            return best
        # All layers kept is no error at all.
        low, high = 0, self._count
        best = Choice(self.ranking, 0.0)
        while high - low > 1:
            middle = (low + high) // 2
            choice = self.without(middle)
            if choice.error <= limit:
                high, best = middle, choice
            else:
                low = middle
        return best
