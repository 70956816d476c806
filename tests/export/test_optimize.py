"""Fused attention: the same numbers, and kept only where it helps."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from owlkit.encoders.tokenizer import Tokenizer
from owlkit.errors import CheckpointError, ConfigError
from owlkit.export import optimize
from owlkit.export.detector_graphs import write_image_graph
from owlkit.export.fused import write_fused
from owlkit.export.graphs import STANDARD, check_graph
from owlkit.export.optimize import FUSED_DOMAINS, image_feeds, optimize_graph
from tests.export.models import class_token


@pytest.fixture(scope="module")
def plain(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "image_encoder.onnx"
    write_image_graph(class_token(Tokenizer.from_pretrained(tokenizer_folder)), path)
    return path


@pytest.fixture
def graph(plain: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "image_encoder.onnx"
    copy.write_bytes(plain.read_bytes())
    return copy


def outputs(path: Path, batch: int) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    (feed,) = image_feeds((64, 64), [batch])
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def test_what_helps_is_kept_with_the_same_numbers(
    graph: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimize, "_FASTER", 0.0)
    report = optimize_graph(graph, image_feeds((64, 64)), rounds=1, threads=1)
    assert report.kept
    assert "times as fast" in report.reason
    assert report.fusions["sdpa"] == 1
    operators = {node.op_type for node in onnx.load(graph).graph.node}
    assert "MultiHeadAttention" in operators
    # A number of images that neither the export nor the comparison has seen.
    found, expected = outputs(graph, 5), outputs(plain, 5)
    assert list(found) == list(expected) == list(report.differences)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-4)
    check_graph(graph, domains=(*STANDARD, *FUSED_DOMAINS))
    with pytest.raises(ConfigError, match=r"com\.microsoft"):
        check_graph(graph)
    assert [path.name for path in graph.parent.iterdir()] == [graph.name]
    onnxruntime.InferenceSession(str(write_fused(graph.parent)))


def test_what_does_not_help_or_differs_is_dropped(
    graph: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimize, "_FASTER", np.inf)
    monkeypatch.setattr(optimize, "_LESS_MEMORY", 0.0)
    report = optimize_graph(graph, image_feeds((64, 64)), rounds=1)
    assert not report.kept
    assert report.reason.startswith("no gain")
    differs = optimize_graph(graph, image_feeds((64, 64)), tolerance=0)
    assert not differs.kept
    assert "moved by" in differs.reason
    assert differs.speed is None
    assert graph.read_bytes() == plain.read_bytes()
    assert [path.name for path in graph.parent.iterdir()] == [graph.name]


def test_graphs_without_attention_stay_as_they_are(tmp_path: Path) -> None:
    shape = ["batch", 3]
    add = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "add",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    path = tmp_path / "add.onnx"
    onnx.save(
        helper.make_model(add, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    before = path.read_bytes()
    report = optimize_graph(path, [{"x": np.ones((2, 3), np.float32)}])
    assert (report.kept, report.reason) == (False, "no attention was found")
    assert path.read_bytes() == before


def test_faults_are_explained(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot load it"):
        optimize_graph(tmp_path / "missing.onnx", image_feeds((64, 64)))
    with pytest.raises(CheckpointError, match=r"does not run on \{'pixels': \[1, 3, 32, 32\]\}"):
        optimize_graph(graph, image_feeds((32, 32)))
    assert [path.name for path in tmp_path.iterdir()] == [graph.name]
