"""Exported attention maps, run by ONNX Runtime, against the image towers in torch."""

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from owlkit import OwlDetector
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.errors import CheckpointError, TokenError
from owlkit.export import Tolerance, export_detector
from owlkit.export import detector as exporting
from owlkit.export.detector_graphs import write_attention_graph
from owlkit.export.detector_parity import check_attention_graph
from owlkit.export.half import halve_folder
from owlkit.export.quantize import Int8Settings, quantize_folder
from tests.export.models import KINDS, class_token, resnet

TRANSFORMERS = [kind for kind in KINDS if kind != "resnet"]


@torch.no_grad()
def sharpen(detector: OwlDetector) -> OwlDetector:
    """Random heads look everywhere alike; these look at some patches more than at others."""
    torch.manual_seed(2)
    for name, parameter in detector.vision.named_parameters():
        if ".qkv." in name:
            parameter.mul_(8)
        elif name.endswith("cls_token"):  # DINOv2's is almost nothing
            torch.nn.init.normal_(parameter)
    return detector


def run(folder: Path, pixels: torch.Tensor) -> np.ndarray:
    file = str(folder / "attention.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (maps,) = session.run(["attention"], {"pixels": pixels.numpy()})
    return maps


def images(size: tuple[int, int]) -> torch.Tensor:
    """Five, which the export has not seen."""
    return torch.randn(5, 3, *size, generator=torch.Generator().manual_seed(99))


@torch.no_grad()
def maps(detector: OwlDetector, pixels: torch.Tensor) -> np.ndarray:
    return detector.vision.attention_maps(pixels).numpy()


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_all_vision_transformers(tmp_path: Path, tokenizer: Tokenizer, kind: str) -> None:
    detector = sharpen(KINDS[kind](tokenizer))
    path, size = tmp_path / "attention.onnx", detector.vision.image_size
    write_attention_graph(detector, path)
    pixels = images(size)
    expected = maps(detector, pixels)
    found = run(tmp_path, pixels)
    assert found.shape == (5, 2, *detector.vision.grid)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
    # Maps that look everywhere alike would prove nothing.
    assert np.ptp(expected, axis=(2, 3)).max() > 1 / expected[0, 0].size
    compared = check_attention_graph(detector, path, size, Tolerance()).deviations
    cases = [(each.case, each.output, each.tolerance) for each in compared]
    assert cases == [(f"noise, batch {batch}", "attention", 1e-5) for batch in (1, 3, 8)]
    assert all(each.is_accepted for each in compared)


@pytest.fixture(scope="module")
def detector(tokenizer: Tokenizer) -> OwlDetector:
    return sharpen(class_token(tokenizer))


@pytest.fixture(scope="module")
def exported(detector: OwlDetector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two sizes; that of the model itself is not the default."""
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    return export_detector(detector, folder, sizes=[(64, 96), (64, 64)], attention=True).folder


def test_the_manifest_names_the_graph_of_the_default_size(
    detector: OwlDetector, exported: Path
) -> None:
    entry = json.loads((exported / "owlkit.json").read_text())["graphs"]["attention"]
    digest = hashlib.sha256((exported / "attention.onnx").read_bytes()).hexdigest()
    assert entry == {"file": "attention.onnx", "size": [64, 96], "sha256": digest}
    assert "| attention.onnx | attention |" in (exported / "README.md").read_text()
    pixels = images((64, 96))
    np.testing.assert_allclose(run(exported, pixels), maps(detector, pixels), atol=1e-6, rtol=0)


def test_half_precision_has_it_too_and_int8_leaves_it(exported: Path, tmp_path: Path) -> None:
    int8 = partial(quantize_folder, settings=Int8Settings())
    pixels = images((64, 96))
    expected = run(exported, pixels)
    for name, step in (("float16", halve_folder), ("int8", int8)):
        step(shutil.copytree(exported, tmp_path / name))
    assert 1e-6 < np.abs(run(tmp_path / "float16", pixels) - expected).max() < 0.02
    np.testing.assert_array_equal(run(tmp_path / "int8", pixels), expected)


def test_what_is_no_vision_transformer_leaves_nothing_behind(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with pytest.raises(TokenError, match="attention maps need a vision transformer"):
        export_detector(resnet(tokenizer), tmp_path / "onnx", attention=True)
    assert list(tmp_path.iterdir()) == []


def test_maps_that_differ_leave_nothing_behind(
    tmp_path: Path, detector: OwlDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = exporting.write_attention_graph

    @torch.no_grad()
    def write_another(model: OwlDetector, path: Path) -> None:
        bias = model.vision.model.blocks[-1].norm1.bias
        bias += 0.01
        write(model, path)
        bias -= 0.01

    monkeypatch.setattr(exporting, "write_attention_graph", write_another)
    with pytest.raises(CheckpointError, match=r"\| attention\.onnx \| attention \|"):
        export_detector(detector, tmp_path / "onnx", attention=True)
    assert list(tmp_path.iterdir()) == []
