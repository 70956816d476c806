"""Graphs in half precision: float16 inside, float32 at their border.

For GPUs; processors compute most of it in float32 all the same. What lies behind the last weights
of an output, for example the sigmoid of a box, stays in float32 with them: float16 has 11 bits, and
a box at the far edge of a picture of 4000 pixels would jump in steps of 2.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from owlkit.errors import ConfigError
from owlkit.export.card import graph_entries
from owlkit.export.folder import TOKENIZER, read_manifest, rehash, write_manifest
from owlkit.export.graphs import STANDARD, check_graph
from owlkit.export.model_file import load_model, save_model
from owlkit.export.optimize import FUSED_DOMAINS
from owlkit.export.parity import Array, GraphRun
from owlkit.export.quantize import Measure, check_float32
from owlkit.export.sensitivity import output_error
from owlkit.runtime.tokenizer import RuntimeTokenizer

_SEED = 20
_TEXTS = ("a cat", "a photo of a dog", "the red mug on a table")
_PRODUCTS = ("MatMul", "Gemm", "Conv")
# Operators that take float32 alone, at least for one of their inputs.
_FLOAT32_ONLY = ("Resize", "DynamicQuantizeLinear", "NonMaxSuppression", "ConstantOfShape", "Range")


def halve_folder(
    folder: Path, *, max_error: float = 0.05, measure: Measure | None = None
) -> dict[str, Any]:
    """Turns all graphs of a complete exported folder to float16.

    Args:
        folder: With float32 graphs; its manifest is kept complete.
        max_error: Largest error of the outputs on noise, as a share of how much they vary, see
            :func:`owlkit.export.sensitivity.output_error`. Much more than 0.01 says that something
            inside is too large or too small for float16.
        measure: Of a folder on a data set; None does without.

    Returns:
        ``float16``: the error; ``accuracy``: before and after, by precision.

    Raises:
        ConfigError: If a graph is not float32 or cannot be expressed, or the error is too large.
    """
    manifest = read_manifest(folder)
    check_float32(folder, manifest)
    accuracy: dict[str, Mapping[str, float]] = {}
    if measure is not None:
        accuracy["float32"] = measure(folder)
    expected = _answers(folder, manifest)
    for entry in graph_entries(manifest):
        halve_graph(folder / entry["file"])
    found = _answers(folder, manifest)
    error = max(map(output_error, found, expected))
    if not error <= max_error:
        raise ConfigError(
            f"float16: expected an error of at most {max_error:g} of what the outputs vary, found "
            f"{error:.3g}: this model does not fit into half precision"
        )
    manifest["precision"] = "float16"
    rehash(folder, manifest)
    write_manifest(folder, manifest)
    if measure is not None:
        accuracy["float16"] = measure(folder)
    return {"float16": {"error": error}} | ({"accuracy": accuracy} if accuracy else {})


def _answers(folder: Path, manifest: dict[str, Any]) -> list[dict[str, Array]]:
    """What each graph gives for noise or for a few texts."""
    generator = np.random.default_rng(_SEED)
    answers = []
    for entry in graph_entries(manifest):
        if "size" in entry:
            pixels = generator.standard_normal((2, 3, *entry["size"]), dtype=np.float32)
            answers.append(GraphRun(folder / entry["file"])(pixels=pixels))
    text = manifest["graphs"].get("text_encoder")
    if text is not None:
        ids, mask = RuntimeTokenizer.from_folder(folder / TOKENIZER)(_TEXTS)
        answers.append(GraphRun(folder / text["file"])(input_ids=ids, attention_mask=mask))
    return answers


def halve_graph(path: Path) -> None:
    """Turns one graph to float16; its inputs and outputs keep their types.

    Raises:
        ConfigError: If the result is no valid graph.
    """
    save_model(_Halving(load_model(path)).result(), path)
    check_graph(path, domains=(*STANDARD, *FUSED_DOMAINS))


class _Halving:
    """Rewrites a graph; a tensor that is needed in both precisions is cast once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._kept = set(_last_nodes(model))
        self._weights = {each.name: each for each in model.graph.initializer}
        self._floats = _float_tensors(model)
        self._is_half: dict[str, bool] = {}
        self._made: dict[tuple[str, bool], str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def result(self) -> onnx.ModelProto:
        for node in self._model.graph.node:
            half = node.name not in self._kept and node.op_type not in _FLOAT32_ONLY
            for place, name in enumerate(node.input):
                if name in self._floats:
                    node.input[place] = self._provide(name, half=half)
            if half:
                _halve_attributes(node)
            self._is_half |= {name: half for name in node.output if name in self._floats}
            self._nodes.append(node)
        graph = self._model.graph
        used = {name for node in self._nodes for name in node.input}
        weights = [each for each in graph.initializer if each.name in used] + self._constants
        for field in (graph.node, graph.initializer, graph.value_info):
            del field[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(weights)
        return self._model

    def _provide(self, name: str, *, half: bool) -> str:
        """The name under which a tensor is to be had in a precision."""
        if self._is_half.get(name, False) == half:
            return name
        if (name, half) not in self._made:
            made = f"{name}_float{16 if half else 32}"
            self._made[name, half] = made
            if name in self._weights:
                self._constants.append(_half_tensor(self._weights[name], made))
            else:
                kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
                self._nodes.append(helper.make_node("Cast", [name], [made], made, to=kind))
        return self._made[name, half]


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 tensors."""
    # Types follow without the large weights, and are found in models of any size without them.
    skeleton = onnx.ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    graph, source = skeleton.graph, model.graph
    graph.name = source.name
    for field in ("node", "input", "output", "value_info"):
        getattr(graph, field).extend(getattr(source, field))
    for each in source.initializer:
        if each.data_type == onnx.TensorProto.FLOAT:
            made = helper.make_tensor_value_info(each.name, each.data_type, list(each.dims))
            graph.input.append(made)
        else:
            graph.initializer.append(each)
    graph = onnx.shape_inference.infer_shapes(skeleton).graph
    return {
        each.name
        for each in (*graph.input, *graph.value_info, *graph.output)
        if each.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }


def _half_tensor(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """The tensor in float16; what is larger than float16 can be becomes the largest number."""
    values = numpy_helper.to_array(tensor)
    largest = np.finfo(np.float16).max
    # Infinities, which keep attention from looking somewhere, stay.
    values = np.where(np.isfinite(values), np.clip(values, -largest, largest), values)
    return numpy_helper.from_array(values.astype(np.float16), name)


def _halve_attributes(node: onnx.NodeProto) -> None:
    """Makes a node that names a type, or holds numbers, give float16."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            if attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.FLOAT16
        elif attribute.t.data_type == onnx.TensorProto.FLOAT:
            attribute.t.CopyFrom(_half_tensor(attribute.t, attribute.t.name))


def _last_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that no weights lie behind, and of the products that they follow."""
    weights = {each.name for each in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    waiting = [output.name for output in model.graph.output]
    found: dict[str, None] = {}
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.name in found:
            continue
        found[node.name] = None
        is_product = node.op_type in _PRODUCTS and not weights.isdisjoint(node.input)
        if not is_product:
            waiting.extend(node.input)
    return list(found)
