"""Exported folders in 8 bits and in half precision."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from owlkit.encoders.tokenizer import Tokenizer
from owlkit.errors import ConfigError
from owlkit.export import export_detector
from owlkit.export.detector import Step
from owlkit.export.folder import read_manifest, write_manifest
from owlkit.export.half import halve_folder
from owlkit.export.quantize import Int8Settings, quantize_folder
from owlkit.runtime import OnnxBackend
from tests.export.models import class_token, resnet

SIZES = [(64, 64), (32, 96)]
# Random weights spread what trained ones keep apart.
LOOSE = 0.2


@pytest.fixture(scope="module", params=[class_token, resnet], ids=lambda make: make.__name__)
def exported(
    request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    export_detector(request.param(tokenizer), folder, sizes=SIZES)
    return folder


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copied"))


def photographs(count: int) -> list[np.ndarray]:
    """Blobs of colour, uint8 [h, w, 3]."""
    generator = np.random.default_rng(5)
    blobs = generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [np.kron(each, np.ones((9, 9, 1), np.uint8)) for each in blobs]


def features(folder: Path, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """What the runtime gives for three images."""
    backend = OnnxBackend(folder, size=size)
    pixels = np.stack([backend.preprocessing(image)[0] for image in photographs(3)])
    found = backend.encode_images(pixels)
    return {
        name: np.stack([getattr(each, name) for each in found])
        for name in ("class_embeds", "boxes", "logit_scale")
    }


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_a_folder_in_8_bits_runs_and_says_what_it_lost(
    exported: Path, copied: Path, mode: Any
) -> None:
    settings = Int8Settings(mode=mode, max_error=LOOSE)
    report = quantize_folder(copied, settings, images=photographs(4))["int8"]
    assert report["mode"] == mode
    assert report["measured_on"] == "4 photographs"
    assert 0 < report["error"] <= LOOSE
    assert report["int8_layers"] >= 2
    assert report["bytes"]["int8"] < report["bytes"]["float32"]
    manifest = read_manifest(copied)
    assert manifest["precision"] == "int8"
    assert manifest["identity"] == read_manifest(exported)["identity"]
    for size in SIZES:
        found, expected = features(copied, size), features(exported, size)
        for name in ("class_embeds", "boxes"):
            assert not np.array_equal(found[name], expected[name])
            # Other images than those of the report.
            difference = found[name] - expected[name]
            assert np.sqrt(np.mean(difference**2)) < 2 * LOOSE * np.std(expected[name])
    # Texts are encoded as before.
    texts = ["a cat", "a red mug"]
    np.testing.assert_array_equal(
        OnnxBackend(copied).encode_texts(texts), OnnxBackend(exported).encode_texts(texts)
    )
    with pytest.raises(ConfigError, match="expected float32 graphs, found int8"):
        quantize_folder(copied, settings)


def test_layers_go_back_to_float32_until_ap_is_kept(copied: Path) -> None:
    asked: list[int] = []

    def measure(folder: Path) -> dict[str, float]:
        model = onnx.load(str(folder / "image_encoder.onnx"))
        layers = sum(node.op_type == "MatMulInteger" for node in model.graph.node)
        OnnxBackend(folder)  # whole at any time
        asked.append(layers)
        return {"AP": 0.5 if layers in (0, 1) else 0.485}

    settings = Int8Settings(max_error=10)
    found = quantize_folder(copied, settings, measure=measure)
    # Float32, all layers, and fewer until AP is what it was.
    assert asked[0] == 0
    assert asked[1:] == sorted(asked[1:], reverse=True)
    assert len(asked) > 2
    assert asked[-1] == found["int8"]["int8_layers"] == 1
    assert found["accuracy"] == {"float32": {"AP": 0.5}, "int8": {"AP": 0.5}}
    assert found["int8"]["float32_layers"]
    assert all(name.startswith("detector.") for name in found["int8"]["float32_layers"])
    assert found["int8"]["measured_on"] == "8 images of noise"


def test_what_cannot_be_done_is_said(copied: Path) -> None:
    with pytest.raises(ConfigError, match="int8 static: expected images"):
        quantize_folder(copied, Int8Settings(mode="static"))
    with pytest.raises(ConfigError, match=r"within an error of 1e-12 .* found none of"):
        quantize_folder(copied, Int8Settings(max_error=1e-12))
    with pytest.raises(ConfigError, match="does not fit into half precision"):
        halve_folder(copied, max_error=1e-12)
    manifest = read_manifest(copied)
    manifest["graphs"]["detector"] = {"file": "detector.onnx"}
    write_manifest(copied, manifest)
    steps: list[Step] = [halve_folder, lambda folder: quantize_folder(folder, Int8Settings())]
    for step in steps:
        with pytest.raises(ConfigError, match="found the fused graph"):
            step(copied)
    with pytest.raises(ConfigError, match="max_error: expected more than 0, found 0"):
        Int8Settings(max_error=0)
    with pytest.raises(ConfigError, match="expected dynamic or static, found 'int4'"):
        Int8Settings(mode="int4")  # type: ignore[arg-type]


def test_half_precision_keeps_the_border_and_the_boxes(exported: Path, copied: Path) -> None:
    report = halve_folder(copied, measure=lambda folder: {"AP": 0.25})
    assert report["accuracy"] == {"float32": {"AP": 0.25}, "float16": {"AP": 0.25}}
    assert 0 < report["float16"]["error"] < 0.03
    assert read_manifest(copied)["precision"] == "float16"
    for name in ("image_encoder.onnx", "text_encoder.onnx", "image_encoder_32x96.onnx"):
        model = onnx.load(str(copied / name))
        kinds = {each.type.tensor_type.elem_type for each in model.graph.output}
        assert kinds == {onnx.TensorProto.FLOAT}
        before, after = ((folder / name).stat().st_size for folder in (exported, copied))
        assert after < 0.75 * before
    for size in SIZES:
        found, expected = features(copied, size), features(exported, size)
        for name, right in expected.items():
            # Eleven bits, through a few layers.
            limit = 0.02 * np.abs(right).max()
            assert np.abs(found[name] - right).max() < limit
            assert not np.array_equal(found[name], right)
        # Not rounded to multiples of 2^-11.
        assert len(np.unique(found["boxes"])) > 0.9 * len(np.unique(expected["boxes"]))
    texts = ["a cat", "a red mug on a table"]
    found_texts, expected_texts = (
        OnnxBackend(folder).encode_texts(texts) for folder in (copied, exported)
    )
    np.testing.assert_allclose(found_texts, expected_texts, atol=2e-3)
