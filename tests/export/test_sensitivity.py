"""What layers lose in 8 bits, measured."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import helper

from owlkit.export.quantized_graph import find_layers, quantize_layers
from owlkit.export.sensitivity import Sensitivity, output_error
from tests.export.test_quantized_graph import make_model, normal


def detector_outputs(embeds: np.ndarray) -> dict[str, np.ndarray]:
    """With as many patches as the embeddings [B, P, E] have."""
    batch, patches, _ = embeds.shape
    boxes = np.random.default_rng(1).random((batch, patches, 4), dtype=np.float32)
    ones = np.ones((batch, patches), np.float32)
    return {"class_embeds": embeds, "boxes": boxes, "logit_shift": 0 * ones, "logit_scale": ones}


def test_an_error_is_a_share_of_what_the_output_varies() -> None:
    right = normal(200, 3) * 5 + 100
    noise = normal(200, 3)
    expected = np.sqrt(np.mean(noise**2) / np.mean((right - right.mean(axis=0)) ** 2))
    assert output_error({"y": right + noise}, {"y": right}) == pytest.approx(expected, rel=1e-4)
    assert output_error({"y": right}, {"y": right}) == 0
    assert output_error({"y": right * np.nan}, {"y": right}) == np.inf


def test_of_detectors_the_logits_count() -> None:
    right = detector_outputs(normal(2, 9, 16))
    # The length of an embedding says nothing.
    longer = right | {"class_embeds": 3 * right["class_embeds"]}
    assert output_error(longer, right) < 1e-5
    turned = right | {"class_embeds": right["class_embeds"][:, ::-1]}
    assert output_error(turned, right) > 0.5
    moved = right | {"boxes": right["boxes"] + np.float32(0.1)}
    spread = np.sqrt(np.mean((right["boxes"] - right["boxes"].mean(axis=(0, 1))) ** 2))
    assert output_error(moved, right) == pytest.approx(0.1 / spread, rel=1e-4)
    shifted = right | {"logit_shift": right["logit_shift"] + 1}
    assert output_error(shifted, right) > 1


def uneven(scales: Sequence[float]) -> onnx.ModelProto:
    """Layers side by side; of one input in 64 each has an outlier of its own size."""
    nodes, weights, parts = [], {}, []
    for place, scale in enumerate(scales):
        outlier = np.ones(64, np.float32)
        outlier[0] = scale
        # What the outlier adds is taken away again: exact arithmetic sees only its resolution.
        weights |= {f"s{place}": outlier, f"w{place}": normal(64, 64) / outlier[:, None]}
        nodes += [
            helper.make_node("Mul", ["x", f"s{place}"], [f"i{place}"], f"scale{place}"),
            helper.make_node("MatMul", [f"i{place}", f"w{place}"], [f"o{place}"], f"layer{place}"),
        ]
        parts.append(f"o{place}")
    return make_model([*nodes, helper.make_node("Sum", parts, ["y"], "sum")], weights, ["n", 64])


def test_layers_that_lose_most_are_kept() -> None:
    model = uneven([1, 300, 1, 30, 1])
    layers = find_layers(model, convolutions=False)

    def build(places: Sequence[int]) -> onnx.ModelProto:
        return quantize_layers(model, [layers[place] for place in places])

    inputs = [{"x": normal(8, 64)} for _ in range(2)]
    sensitivity = Sensitivity(model, build, len(layers), inputs)
    assert sensitivity.ranking[:2] == (1, 3)
    every, one, two = (sensitivity.without(number).error for number in (0, 1, 2))
    assert every > 3 * one > 3 * two > 0
    for limit, kept in ((every, ()), (one, (1,)), (two, (1, 3))):
        choice = sensitivity.within(limit * 1.001)
        assert choice.kept == kept
        assert choice.error <= limit * 1.001
    assert sensitivity.within(1e-9).kept == sensitivity.ranking
