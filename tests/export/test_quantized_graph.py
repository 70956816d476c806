"""Layers in 8 bits against ONNX Runtime's own quantiser and against numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

from owlkit.export.graphs import check_graph
from owlkit.export.quantized_graph import find_layers, quantize_layers, round_weight
from owlkit.export.ranges import measure_ranges

GENERATOR = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape, dtype=np.float32)


def make_model(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: list[Any]
) -> onnx.ModelProto:
    """From ``x`` to ``y``."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shape))],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray, path: Path) -> np.ndarray:
    onnx.save(model, str(path))
    check_graph(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


def perceptron(width: int = 64) -> onnx.ModelProto:
    """Two layers with different inputs, and two that share one."""
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MatMul", ["b", "w1"], ["c"], "second"),
        helper.make_node("MatMul", ["b", "w2"], ["d"], "third"),
        helper.make_node("Add", ["c", "d"], ["y"], "sum"),
    ]
    weights = {f"w{each}": normal(width, width) for each in range(3)}
    return make_model(nodes, weights, ["batch", 5, width])


def uint8_and_back(x: np.ndarray, low: float, high: float) -> np.ndarray:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = round(-low / scale)
    return np.asarray((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale)


def int8_and_back(weight: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(
        np.stack(
            [
                np.rint(each * (127 / np.abs(each).max())) * (np.abs(each).max() / 127)
                for each in np.moveaxis(weight, axis, 0)
            ],
            axis=axis,
        )
    )


def test_weights_are_within_half_a_step_and_zeros_stay() -> None:
    weight = normal(6, 4) * [1, 100, 1e-30, 0]
    rounded, scale = round_weight(weight.astype(np.float32), axis=1)
    assert rounded.dtype == np.int8
    assert np.abs(rounded).max(axis=0).tolist() == [127, 127, 127, 0]
    assert (np.abs(rounded * scale - weight) <= scale * 0.5001).all()


def test_dynamic_is_what_onnxruntime_makes(tmp_path: Path) -> None:
    model, x = perceptron(), normal(3, 5, 64) * 4
    layers = find_layers(model, convolutions=False)
    assert [layer.node for layer in layers] == ["first", "second", "third"]
    found = quantize_layers(model, layers)
    onnx.save(model, str(tmp_path / "plain.onnx"))
    quantize_dynamic(tmp_path / "plain.onnx", tmp_path / "theirs.onnx", per_channel=True)
    theirs = onnx.load(tmp_path / "theirs.onnx")
    expected = run(theirs, x, tmp_path / "b.onnx")
    np.testing.assert_allclose(run(found, x, tmp_path / "a.onnx"), expected, rtol=0, atol=1e-3)
    operators = [node.op_type for node in found.graph.node]
    # One for x and one for what two layers read.
    assert operators.count("DynamicQuantizeLinear") == 2
    assert operators.count("MatMulInteger") == 3
    # The float weights are gone.
    assert found.ByteSize() < 0.4 * model.ByteSize()


def test_only_what_was_chosen_is_quantised(tmp_path: Path) -> None:
    model, x = perceptron(), normal(2, 5, 64)
    layers = find_layers(model, convolutions=False)
    found = run(quantize_layers(model, layers[1:2]), x, tmp_path / "a.onnx")
    weights = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    hidden = np.maximum(x @ weights["w0"], 0)
    expected = uint8_and_back(hidden, 0, hidden.max()) @ int8_and_back(weights["w1"], 1)
    np.testing.assert_allclose(found, expected + hidden @ weights["w2"], atol=2e-3)
    same = run(quantize_layers(model, []), x, tmp_path / "b.onnx")
    np.testing.assert_array_equal(same, run(model, x, tmp_path / "c.onnx"))


@pytest.mark.parametrize("mode", ["dynamic", "static"])
@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_keeps_its_bias(tmp_path: Path, mode: str, transposed: int) -> None:
    weight, bias, x = normal(64, 96), normal(96), normal(7, 64)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "gemm", transB=transposed)
    model = make_model(
        [node], {"w": weight.T.copy() if transposed else weight, "b": bias}, ["n", 64]
    )
    ranges = {"x": (-3.0, 2.0)} if mode == "static" else None
    found = run(
        quantize_layers(model, find_layers(model, convolutions=False), ranges),
        x,
        tmp_path / "a.onnx",
    )
    limits = (-3.0, 2.0) if ranges else (float(x.min()), float(x.max()))
    expected = uint8_and_back(x, *limits) @ int8_and_back(weight, 1) + bias
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_static_convolution_rounds_input_weights_and_output(tmp_path: Path) -> None:
    weight, bias, x = normal(8, 16, 3, 3) + 0.5, normal(8), normal(2, 16, 9, 9) + 1
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", pads=[1, 1, 1, 1])
    model = make_model([node], {"w": weight, "b": bias}, ["n", 16, 9, 9])
    assert find_layers(model, convolutions=False) == []
    # Too few weights to gain anything.
    assert find_layers(model, convolutions=True) == []
    weight = np.tile(weight, (8, 1, 1, 1))
    model = make_model([node], {"w": weight, "b": np.tile(bias, 8)}, ["n", 16, 9, 9])
    layers = find_layers(model, convolutions=True)
    ranges = measure_ranges(model, layers, [{"x": x}])
    exact = run(model, x, tmp_path / "exact.onnx")
    assert ranges == {
        "x": (pytest.approx(x.min()), pytest.approx(x.max())),
        "y": (pytest.approx(exact.min(), rel=1e-4), pytest.approx(exact.max(), rel=1e-4)),
    }
    found = run(quantize_layers(model, layers, ranges), x, tmp_path / "a.onnx")
    rounded = make_model(
        [node],
        {"w": int8_and_back(weight, 0).astype(np.float32), "b": np.tile(bias, 8)},
        ["n", 16, 9, 9],
    )
    expected = run(rounded, uint8_and_back(x, *ranges["x"]).astype(np.float32), tmp_path / "b.onnx")
    step = (ranges["y"][1] - ranges["y"][0]) / 255
    assert np.abs(found - expected).max() <= 0.51 * step
    assert np.abs(found - exact).max() <= 2 * step


def test_ranges_are_means_of_what_each_run_reached() -> None:
    model = perceptron()
    layers = find_layers(model, convolutions=False)
    runs = [normal(1, 5, 64), 3 * normal(2, 5, 64)]
    ranges = measure_ranges(model, layers, [{"x": each} for each in runs])
    weight = numpy_helper.to_array(model.graph.initializer[0])
    highest = [np.maximum(each @ weight, 0).max() for each in runs]
    assert ranges.keys() == {"x", "b"}
    assert ranges["x"] == pytest.approx(
        (np.mean([each.min() for each in runs]), np.mean([each.max() for each in runs]))
    )
    assert ranges["b"] == pytest.approx((0, np.mean(highest)), rel=1e-5)
