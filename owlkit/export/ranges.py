"""How large the tensors of a graph get, on images."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from owlkit.export.model_file import save_model
from owlkit.export.parity import Array, GraphRun
from owlkit.export.quantized_graph import Layer, Range


def measure_ranges(
    model: onnx.ModelProto, layers: Sequence[Layer], inputs: Iterable[dict[str, Array]]
) -> dict[str, Range]:
    """The values that layers read, and that convolutions give.

    A range goes from the mean over the runs of the smallest value to that of the largest, so that
    one strange image does not take the resolution from all others; what is beyond it is clipped.

    Args:
        model: Float32.
        layers: Of the model.
        inputs: Of each run, at least one.

    Returns:
        Range of each tensor, by its name.
    """
    tensors = list(
        dict.fromkeys(
            name
            for layer in layers
            for name in ([layer.input, layer.output] if layer.kind == "Conv" else [layer.input])
        )
    )
    if not tensors:
        return {}
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "ranges.onnx"
        save_model(_with_ranges(model, tensors), path)
        run = GraphRun(path)
        for each in inputs:
            outputs = run(**each)
            found.append(
                [[float(outputs[_name(tensor, end)]) for end in _ENDS] for tensor in tensors]
            )
    means = np.mean(found, axis=0)
    return {
        tensor: (low, high) for tensor, (low, high) in zip(tensors, means.tolist(), strict=True)
    }


_ENDS = ("Min", "Max")


def _name(tensor: str, end: str) -> str:
    return f"{tensor}_range_{end}"


def _with_ranges(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A graph that gives the smallest and the largest value of tensors, and nothing else."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.output[:]
    for tensor in tensors:
        for end in _ENDS:
            name = _name(tensor, end)
            node = helper.make_node(f"Reduce{end}", [tensor], [name], name, keepdims=0)
            result.graph.node.append(node)
            output = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [])
            result.graph.output.append(output)
    return result
