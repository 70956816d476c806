"""Attention maps of exported models, against the PyTorch backend with the same weights."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from owlkit import Predictor
from owlkit.errors import CheckpointError, ConfigError, ImageError, InputSizeError
from owlkit.runtime import OnnxBackend
from owlkit.torch_backend import TorchBackend


def noise(batch: int, height: int = 64, width: int = 64) -> np.ndarray:
    shape = (batch, 3, height, width)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("batch", [1, 20])
def test_maps_are_torchs(exported: Path, torch_backend: TorchBackend, batch: int) -> None:
    """20 is more than go through the graph at a time."""
    backend = OnnxBackend(exported, providers=["cpu"], threads=1)
    expected = torch_backend.attention(noise(batch))
    assert expected.shape == (batch, 4, 4, 4)
    np.testing.assert_allclose(backend.attention(noise(batch)), expected, atol=1e-6, rtol=0)


def test_on_photographs(exported: Path, torch_backend: TorchBackend, data_dir: Path) -> None:
    photographs = sorted((data_dir / "samples").glob("*.jpg"))[:3]
    ours = Predictor.from_pretrained(exported, device="cpu").attention(photographs)
    theirs = Predictor(torch_backend, batch_size=2).attention(photographs)
    for found, expected in zip(ours, theirs, strict=True):
        assert found.transform == expected.transform
        np.testing.assert_allclose(found.on_image(), expected.on_image(), atol=1e-6, rtol=0)


def test_the_graph_is_read_when_it_is_needed(copied: Path) -> None:
    (copied / "attention.onnx").unlink()
    backend = OnnxBackend(copied)
    assert len(backend.encode_images(noise(1))) == 1
    with pytest.raises(CheckpointError, match=r"attention\.onnx: cannot be read"):
        backend.attention(noise(1))


def test_a_model_without_it_says_what_to_do(copied: Path, rewrite: Callable[..., None]) -> None:
    graphs = json.loads((copied / "owlkit.json").read_text())["graphs"]
    rewrite(graphs={name: entry for name, entry in graphs.items() if name != "attention"})
    message = "exported without attention maps; export it again with --attention"
    with pytest.raises(ConfigError, match=message):
        Predictor(OnnxBackend(copied)).attention(np.zeros((40, 50, 3), np.uint8))


def test_other_sizes_and_bad_pixels_are_named(exported: Path) -> None:
    wide = OnnxBackend(exported, size=(48, 96))
    with pytest.raises(ConfigError, match=r"of \(64, 64\), the model's default size, found \(48"):
        wide.attention(noise(1, 48, 96))
    backend = OnnxBackend(exported)
    with pytest.raises(InputSizeError):
        backend.attention(noise(1, 48, 96))
    with pytest.raises(ImageError, match="expected one image or more, found none"):
        backend.attention(noise(0))
