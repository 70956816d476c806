"""The description of an exported folder: what is damaged is named, and nothing runs."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from owlkit.encoders import hub
from owlkit.errors import CheckpointError
from owlkit.runtime import OnnxBackend, is_exported
from owlkit.runtime import manifest as runtime_manifest


def test_the_format_is_that_of_other_model_folders() -> None:
    """Written down twice, because one of the two needs torch."""
    assert runtime_manifest.FORMAT_VERSION == hub.FORMAT_VERSION
    assert runtime_manifest.MANIFEST == hub.MANIFEST


def test_exported_folders_are_known(exported: Path, copied: Path, owlv2_folder: Path) -> None:
    assert is_exported(exported)
    assert is_exported(str(exported))
    assert not is_exported(owlv2_folder)
    assert not is_exported("google/owlv2-base-patch16-ensemble")
    assert not is_exported(exported / "owlkit.json")
    (copied / "owlkit.json").unlink()
    assert is_exported(copied), "damaged, but exported"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version: expected 1 to 1, found 2; a newer owlkit"),
        ({"format_version": "1"}, "format_version: expected 1 to 1, found '1'"),
        ({"kind": "onnx_dual_encoder"}, "kind: expected onnx_detector, found 'onnx_dual_encoder'"),
        ({"identity": None}, "identity: expected str, found None"),
        ({"embed_width": "32"}, "embed_width: expected int, found '32'"),
        ({"embed_width": 31}, "expected embeddings of width 31, found 32"),
        ({"objectness": 1}, "objectness: expected bool, found 1"),
        ({"objectness": False}, "image_encoder.onnx: outputs: expected class_embeds, boxes"),
        ({"threshold": 1.5}, "threshold: expected a number in [0, 1], found 1.5"),
        ({"calibration": {"kind": "linear"}}, "expected a calibration with the keys"),
        ({"preprocessing": {}}, "preprocessing:"),
        ({"graphs": []}, "graphs: expected dict, found []"),
        ({"graphs": {"image_encoder": []}}, "expected an image_encoder, found none"),
    ],
)
def test_a_wrong_description_is_named(
    copied: Path, rewrite: Callable[..., None], changes: dict[str, Any], message: str
) -> None:
    rewrite(**changes)
    with pytest.raises(CheckpointError) as caught:
        OnnxBackend(copied).encode_images(np.zeros((1, 3, 64, 64), np.float32))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"file": "../elsewhere.onnx"},
            "expected a file of this folder, found '../elsewhere.onnx'",
        ),
        ({"file": None}, "expected a file of this folder, found None"),
        ({"sha256": "abc"}, "image_encoder.onnx: expected a sha256, found 'abc'"),
        ({"size": [64]}, "expected a size [H, W] in pixels, found [64]"),
        ({"size": [64, 32]}, "as preprocessing says, found (64, 32)"),
        ({"file": "text_encoder.onnx"}, "text_encoder.onnx: expected the file that owlkit.json"),
        ({"file": "gone.onnx"}, "gone.onnx: cannot be read: No such file"),
        ({"data": {"file": "gone.data", "sha256": "0" * 64}}, "gone.data: cannot be read"),
    ],
)
def test_a_wrong_graph_entry_is_named(
    copied: Path, rewrite: Callable[..., None], changes: dict[str, Any], message: str
) -> None:
    graphs = json.loads((copied / "owlkit.json").read_text())["graphs"]
    graphs["image_encoder"][0] |= changes
    rewrite(graphs=graphs)
    with pytest.raises(CheckpointError) as caught:
        OnnxBackend(copied)
    assert message in str(caught.value)


def test_an_altered_graph_does_not_run(copied: Path) -> None:
    graph = copied / "image_encoder.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"image_encoder\.onnx: expected the file that owlki"):
        OnnxBackend(copied)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no graph", "cannot load it"), (None, "inputs: expected pixels, found input_ids, attentio")],
)
def test_a_file_that_is_no_such_graph_is_named(
    copied: Path, rewrite: Callable[..., None], content: bytes | None, message: str
) -> None:
    graph = copied / "image_encoder.onnx"
    if content is None:
        shutil.copyfile(copied / "text_encoder.onnx", graph)
    else:
        graph.write_bytes(content)
    graphs = json.loads((copied / "owlkit.json").read_text())["graphs"]
    graphs["image_encoder"][0]["sha256"] = hashlib.sha256(graph.read_bytes()).hexdigest()
    rewrite(graphs=graphs)
    with pytest.raises(CheckpointError, match=message):
        OnnxBackend(copied)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing"),
        ("{", "not readable as JSON"),
        ("[]", "expected a JSON object, found list"),
    ],
)
def test_a_damaged_description_is_named(copied: Path, content: str | None, message: str) -> None:
    path = copied / "owlkit.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=message):
        OnnxBackend(copied)
