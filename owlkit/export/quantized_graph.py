"""Layers of an ONNX graph in 8 bits, in standard operators only.

Weights are int8, symmetric, with one scale for each output; what goes in is uint8 with one scale
and zero point for the whole tensor, either measured while the graph runs (dynamic) or fixed
beforehand (static, Jacob et al. 2018, https://arxiv.org/abs/1712.05877). Sums are int32, so the
product of a layer is exact (but for x86 processors without VNNI, where ONNX Runtime adds pairs in
16 bits, which large weights may exceed); the rounding of weights and input loses something. All
else stays float32.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

# Fewer weights than that gain nothing: the last layers of shift, scale and boxes.
_SMALLEST = 4096
_NAMESPACE = "namespace"

Range = tuple[float, float]
"""Smallest and largest value of a tensor."""


@dataclass(frozen=True)
class Layer:
    """A product with constant weights.

    Attributes:
        node: Name of its node.
        kind: ``MatMul``, ``Gemm`` or ``Conv``.
        input: Name of the tensor that goes in.
        output: Name of what comes out.
        weight: Name of the weights.
        module: What the model calls it, for people.
    """

    node: str
    kind: str
    input: str
    output: str
    weight: str
    module: str


def find_layers(model: onnx.ModelProto, *, convolutions: bool) -> list[Layer]:
    """The layers that may become 8 bits, in the order of the graph.

    Args:
        model: Float32.
        convolutions: Whether they count. Their 8-bit kernels need fixed ranges to be fast.
    """
    weights = {each.name: each for each in model.graph.initializer}
    return [
        Layer(node.name, node.op_type, node.input[0], node.output[0], node.input[1], _module(node))
        for node in model.graph.node
        if _is_layer(node, weights, convolutions=convolutions)
    ]


def _is_layer(
    node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto], *, convolutions: bool
) -> bool:
    weight = weights.get(node.input[1]) if len(node.input) > 1 else None
    if weight is None or weight.data_type != onnx.TensorProto.FLOAT:
        return False
    if node.op_type == "Conv":
        # One channel a group leaves nothing to sum up.
        return convolutions and np.prod(weight.dims) >= _SMALLEST and weight.dims[1] > 1
    options = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    plain = not options.get("transA") and options.get("alpha", 1) == options.get("beta", 1) == 1
    is_product = node.op_type == "MatMul" or (node.op_type == "Gemm" and plain)
    return is_product and len(weight.dims) == 2 and np.prod(weight.dims) >= _SMALLEST


def _module(node: onnx.NodeProto) -> str:
    """The module of the model that a node comes from; the node's name if nobody noted it."""
    found = next((each.value for each in node.metadata_props if each.key == _NAMESPACE), "")
    # "/" parts "name: class"; the innermost is the operation.
    paths = [part.partition(":")[0].strip() for part in found.split("/")[:-1]]
    return next((path for path in reversed(paths) if path), node.name)


def quantize_layers(
    model: onnx.ModelProto, layers: Sequence[Layer], ranges: Mapping[str, Range] | None = None
) -> onnx.ModelProto:
    """A copy with some layers in 8 bits.

    Args:
        model: Float32.
        layers: Of :func:`find_layers`; convolutions only with ranges.
        ranges: Of the input of each layer, by name of the tensor, and of the output of each
            convolution; None to measure them in each run, over the whole batch.
    """
    surgery = _Surgery(model, ranges)
    chosen = {layer.node: layer for layer in layers}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        layer = chosen.get(node.name)
        nodes.extend([node] if layer is None else surgery.replace(node, layer))
    # Not a copy of the whole, whose weights would be copied only to be dropped.
    graph = onnx.GraphProto(name=model.graph.name)
    graph.node.extend(nodes)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    used = {name for node in nodes for name in node.input}
    graph.initializer.extend(each for each in model.graph.initializer if each.name in used)
    graph.initializer.extend(surgery.constants.values())
    result = onnx.ModelProto(
        ir_version=model.ir_version, producer_name=model.producer_name, graph=graph
    )
    result.opset_import.extend(model.opset_import)
    result.metadata_props.extend(model.metadata_props)
    result.functions.extend(model.functions)
    return result


class _Surgery:
    """Replaces nodes; several layers that read one tensor share its 8-bit form."""

    def __init__(self, model: onnx.ModelProto, ranges: Mapping[str, Range] | None) -> None:
        self._weights = {each.name: each for each in model.graph.initializer}
        self._ranges = ranges
        self._rounded: set[str] = set()
        self.constants: dict[str, onnx.TensorProto] = {}

    def replace(self, node: onnx.NodeProto, layer: Layer) -> Iterator[onnx.NodeProto]:
        if layer.kind == "Conv":
            yield from self._convolution(node, layer)
            return
        weight = numpy_helper.to_array(self._weights[layer.weight])
        options = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        if options.get("transB"):
            weight = weight.T
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        product = f"{layer.node}_product" if bias else layer.output
        if self._ranges is None:
            yield from self._dynamic(layer, weight, product)
        else:
            yield from self._static(layer, weight, product, node)
        if bias:
            yield helper.make_node("Add", [product, bias], [layer.output], f"{layer.node}_bias")

    def _dynamic(
        self, layer: Layer, weight: NDArray[np.float32], product: str
    ) -> Iterator[onnx.NodeProto]:
        rounded, scale, zero = (
            f"{layer.input}_{part}" for part in ("uint8", "uint8_scale", "uint8_zero")
        )
        if layer.input not in self._rounded:
            self._rounded.add(layer.input)
            yield helper.make_node(
                "DynamicQuantizeLinear", [layer.input], [rounded, scale, zero], f"{rounded}_node"
            )
        names = self._weight_constants(layer, weight, axis=1)
        sums, floats, scales = (f"{layer.node}_{part}" for part in ("int32", "sums", "scales"))
        # ONNX Runtime runs these four as one.
        yield helper.make_node("MatMulInteger", [rounded, names[0], zero, names[2]], [sums], sums)
        yield helper.make_node("Cast", [sums], [floats], floats, to=onnx.TensorProto.FLOAT)
        yield helper.make_node("Mul", [scale, names[1]], [scales], scales)
        yield helper.make_node("Mul", [floats, scales], [product], f"{layer.node}_scaled")

    def _static(
        self, layer: Layer, weight: NDArray[np.float32], product: str, node: onnx.NodeProto
    ) -> Iterator[onnx.NodeProto]:
        yield from self._round_input(layer.input)
        back = f"{layer.node}_weight"
        names = self._weight_constants(layer, weight, axis=1)
        yield helper.make_node("DequantizeLinear", names, [back], f"{back}_node", axis=1)
        yield helper.make_node("MatMul", [_rounded(layer.input), back], [product], node.name)

    def _convolution(self, node: onnx.NodeProto, layer: Layer) -> Iterator[onnx.NodeProto]:
        yield from self._round_input(layer.input)
        back = f"{layer.node}_weight"
        weight = numpy_helper.to_array(self._weights[layer.weight])
        names = self._weight_constants(layer, weight, axis=0)
        yield helper.make_node("DequantizeLinear", names, [back], f"{back}_node", axis=0)
        inputs = [_rounded(layer.input), back]
        if len(node.input) > 2 and node.input[2]:
            yield self._bias(node, layer)
            inputs.append(f"{layer.node}_bias")
        # 8-bit convolutions give 8 bits.
        plain = f"{layer.output}_plain"
        convolution = helper.make_node("Conv", inputs, [plain], node.name)
        convolution.attribute.extend(node.attribute)
        yield convolution
        yield from self._round(plain, layer.output, self._range(layer.output))

    def _bias(self, node: onnx.NodeProto, layer: Layer) -> onnx.NodeProto:
        """A convolution's bias in steps of the product of both scales, as its kernel adds it."""
        bias = numpy_helper.to_array(self._weights[node.input[2]]).astype(np.float64)
        scale = numpy_helper.to_array(self.constants[f"{layer.node}_weight_scale"])
        steps = scale * np.float32(_steps(self._range(layer.input))[0])
        rounded = np.clip(np.rint(bias / steps), -(2**31), 2**31 - 1).astype(np.int32)
        name = f"{layer.node}_bias"
        names = [
            self._constant(f"{name}_int32", rounded),
            self._constant(f"{name}_scale", steps),
        ]
        return helper.make_node("DequantizeLinear", names, [name], f"{name}_node", axis=0)

    def _round_input(self, tensor: str) -> Iterator[onnx.NodeProto]:
        if tensor not in self._rounded:
            self._rounded.add(tensor)
            yield from self._round(tensor, _rounded(tensor), self._range(tensor))

    def _round(self, tensor: str, result: str, limits: Range) -> Iterator[onnx.NodeProto]:
        """To uint8 and back, in two nodes that a runtime merges with those around them."""
        scale, zero = _steps(limits)
        names = [
            self._constant(f"{tensor}_uint8_scale", np.array(scale, np.float32)),
            self._constant(f"{tensor}_uint8_zero", np.array(zero, np.uint8)),
        ]
        middle = f"{tensor}_uint8"
        yield helper.make_node("QuantizeLinear", [tensor, *names], [middle], f"{middle}_node")
        yield helper.make_node("DequantizeLinear", [middle, *names], [result], f"{result}_back")

    def _range(self, tensor: str) -> Range:
        assert self._ranges is not None
        return self._ranges[tensor]

    def _weight_constants(
        self, layer: Layer, weight: NDArray[np.float32], *, axis: int
    ) -> list[str]:
        """Names of a layer's int8 weights, their scales and their zero points."""
        rounded, scale = round_weight(weight, axis=axis)
        name = f"{layer.node}_weight"
        return [
            self._constant(f"{name}_int8", rounded),
            self._constant(f"{name}_scale", scale),
            self._constant(f"{name}_zero", np.zeros(scale.shape, np.int8)),
        ]

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name


def round_weight(
    weight: NDArray[np.float32], *, axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights as int8 in [-127, 127] and one positive scale for each index of an axis."""
    others = tuple(each for each in range(weight.ndim) if each != axis)
    largest = np.abs(weight).max(axis=others)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    # A scale that is rounded to zero or down may ask for more than 127.
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    rounded = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
    return rounded, scale


def _rounded(tensor: str) -> str:
    return f"{tensor}_rounded"


def _steps(limits: Range) -> tuple[float, int]:
    """Scale and zero point of uint8 for a range; zero itself, as of padding, is kept exactly."""
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    scale = max((high - low) / 255, float(np.finfo(np.float32).tiny))
    return scale, round(-low / scale)
