"""Exported pairs of towers, run by ONNX Runtime, against the pairs in torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from owlkit import DualEncoder
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.errors import CheckpointError, ConfigError, InputSizeError
from owlkit.export import Tolerance
from owlkit.export.dual_encoder import export_dual_encoder
from tests.engine.toy import make_dual_encoder
from tests.export.dual_encoders import make_lit

TEXTS = ["a cat", "a dog on a table", "a red mug"]
# Rounding in another order, in numbers of vectors of length 1; the export itself accepts 1e-4.
CLOSE = {"atol": 1e-5, "rtol": 0}


def run(path: Path, **feeds: torch.Tensor) -> Any:
    """The only output of a graph, without owlkit."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: array.numpy() for name, array in feeds.items()})
    return found


@torch.no_grad()
def assert_same_answers(model: DualEncoder, folder: Path) -> None:
    """Five images of each size and three texts, none of which the export has seen."""
    generator = torch.Generator().manual_seed(99)
    manifest = json.loads((folder / "owlkit.json").read_text())
    for entry in manifest["graphs"]["image_encoder"]:
        pixels = torch.randn(5, 3, *entry["size"], generator=generator)
        found = run(folder / entry["file"], pixels=pixels)
        np.testing.assert_allclose(found, model.encode_images(pixels), **CLOSE)
        # Vectors that do not depend on the image would prove nothing.
        assert np.ptp(found, axis=0).max() > 1e-3
    assert model.tokenizer is not None
    ids, mask = model.tokenizer(TEXTS)
    found = run(folder / "text_encoder.onnx", input_ids=ids, attention_mask=mask)
    np.testing.assert_allclose(found, model.encode_text(ids, mask), **CLOSE)


def test_two_sizes_and_photographs(tmp_path: Path, tokenizer_folder: Path, data_dir: Path) -> None:
    """The second size is of another shape, so that height and width cannot be confused."""
    model = make_dual_encoder(tokenizer_folder)
    photographs = sorted((data_dir / "samples").glob("*.jpg"))[:2]
    out = tmp_path / "onnx"
    report = export_dual_encoder(model, out, sizes=[(32, 32), (32, 64)], photographs=photographs)
    assert_same_answers(model, out)
    manifest = json.loads((out / "owlkit.json").read_text())
    assert manifest["kind"] == "onnx_dual_encoder"
    assert manifest["preprocessing"] == model.preprocessing.to_dict()
    assert manifest["logit_scale"] == pytest.approx(1 / 0.07)
    assert "logit_bias" not in manifest
    assert manifest["measured"]["parity"] == json.loads(json.dumps(report.parity.to_dict()))
    assert report.parity.table() in (out / "README.md").read_text()
    cases = {each.case for each in report.parity.deviations}
    assert {"noise, batch 1", "noise, batch 8", "1203 texts of 6 tokens", "photograph 1"} <= cases


def test_other_towers(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = make_lit(tokenizer)
    export_dual_encoder(model, tmp_path / "onnx")
    assert_same_answers(model, tmp_path / "onnx")


def test_a_model_without_tokenizer_has_an_image_side_only(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    model = make_dual_encoder(tokenizer_folder)
    model.tokenizer = None
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match=r"found\n\| graph \| output"):
        export_dual_encoder(model, out, tolerance=Tolerance(embeddings=1e-12))
    assert list(tmp_path.iterdir()) == [], "above the tolerance nothing is left"
    export_dual_encoder(model, out)
    names = {path.name for path in out.iterdir()}
    assert names == {"owlkit.json", "README.md", "image_encoder.onnx"}


def test_sizes_are_checked_before_anything_is_written(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    model = make_dual_encoder(tokenizer_folder)
    with pytest.raises(ConfigError, match="sizes: expected each size once"):
        export_dual_encoder(model, tmp_path / "out", sizes=[(32, 32), (32, 32)])
    with pytest.raises(InputSizeError):
        export_dual_encoder(model, tmp_path / "out", sizes=[(32, 32), (32, 33)])
    assert list(tmp_path.iterdir()) == []
