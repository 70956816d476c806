"""Modules as ONNX files: what is written, and what is refused."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from owlkit.errors import ConfigError
from owlkit.export.graphs import check_graph, write_graph


class Scaled(nn.Module):
    """Numbers times a large table of weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, width))

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers @ self.weight


class Sorted(nn.Module):
    """Branches on its input, which a graph cannot."""

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers if numbers.sum() > 0 else -numbers


def test_weights_too_large_for_one_file_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.onnx._internal.exporter import _onnx_program

    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 1000)
    path = tmp_path / "scaled.onnx"
    inputs = {"numbers": torch.ones(2, 64)}
    write_graph(Scaled(64), path, inputs=inputs, outputs=["scaled"], dynamic={})
    assert (tmp_path / "scaled.onnx.data").stat().st_size >= 64 * 64 * 4
    assert path.stat().st_size < 64 * 64


def test_what_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sorted\.onnx: torch cannot express this model"):
        write_graph(
            Sorted(),
            tmp_path / "sorted.onnx",
            inputs={"numbers": torch.ones(3)},
            outputs=["sorted"],
            dynamic={},
        )


def graph(path: Path, *, domain: str, operator: str, opset: int = 20) -> Path:
    """A file of one operator."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "ab"]
    node = helper.make_node(operator, ["a"], ["b"], domain=domain)
    made = helper.make_graph([node], "made", values[:1], values[1:])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=10), path)
    return path


def test_operators_of_other_domains_are_refused(tmp_path: Path) -> None:
    path = graph(tmp_path / "a.onnx", domain="com.microsoft", operator="Gelu")
    with pytest.raises(ConfigError, match=r"not every runtime has: \['com\.microsoft\.Gelu'\]"):
        check_graph(path)
    check_graph(path, domains=("", "com.microsoft"))


def test_another_opset_and_damage_are_refused(tmp_path: Path) -> None:
    path = graph(tmp_path / "a.onnx", domain="", operator="Abs", opset=17)
    with pytest.raises(ConfigError, match="operators of version 20, found 17"):
        check_graph(path)
    with pytest.raises(ConfigError, match="not a valid ONNX graph"):
        check_graph(graph(tmp_path / "b.onnx", domain="", operator="NoSuchThing"))
