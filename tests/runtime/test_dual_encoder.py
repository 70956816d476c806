"""Zero-shot classes and search without torch, against transformers and owlkit's own torch path."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from owlkit import DualEncoder
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.errors import CheckpointError, ConfigError, ImageError, QueryError
from owlkit.evaluation.features import Encoder
from owlkit.export.dual_encoder import export_dual_encoder
from owlkit.images import load_image
from owlkit.runtime import OnnxBackend
from owlkit.runtime.dual_encoder import OnnxDualEncoder
from tests.export.dual_encoders import save_clip, save_siglip
from tests.test_import import BLOCKED

NAMES = ["cat", "remote control", "red mug", "dog"]
# Rounding in another order, in vectors of length 1 and in probabilities.
CLOSE = {"atol": 2e-5, "rtol": 0}


class Case(NamedTuple):
    published: Any  # transformers' model
    model: DualEncoder
    folder: Path  # exported
    ours: OnnxDualEncoder


@pytest.fixture(scope="module", params=["clip", "siglip"])
def case(
    request: pytest.FixtureRequest,
    tokenizer_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "clip":
        published = save_clip(folder / "hf", Tokenizer.from_pretrained(tokenizer_folder))
    else:
        published = save_siglip(folder / "hf")
    model = DualEncoder.from_pretrained(folder / "hf")
    export_dual_encoder(model, folder / "onnx")
    ours = OnnxDualEncoder.from_pretrained(folder / "onnx", providers=["cpu"], threads=1)
    return Case(published, model, folder / "onnx", ours)


@pytest.fixture
def copied(case: Case, tmp_path: Path) -> Path:
    """A copy of the exported folder that a test may damage."""
    return Path(shutil.copytree(case.folder, tmp_path / "copied"))


@pytest.fixture(scope="module")
def photographs(data_dir: Path) -> list[Path]:
    """More than go through the graph at a time; some twice."""
    found = sorted((data_dir / "samples").glob("*.jpg"))
    return (found * 18)[:18]


@torch.no_grad()
def test_classes_are_transformers_zero_shot(case: Case, photographs: list[Path]) -> None:
    """Softmax for CLIP, sigmoid for SigLIP, as in its zero-shot-image-classification pipeline."""
    pixels = np.stack([case.model.preprocessing(load_image(path))[0] for path in photographs])
    tokenizer = case.model.tokenizer
    assert tokenizer is not None
    texts = [f"a photo of a {name}." for name in NAMES]
    ids, mask = tokenizer(texts, pad_to_full=case.model.text.needs_full_length)
    # SigLIP was trained without a mask.
    masked = {} if hasattr(case.published, "logit_bias") else {"attention_mask": mask}
    found = case.published(input_ids=ids, pixel_values=torch.from_numpy(pixels), **masked)
    logits = found.logits_per_image
    expected = logits.softmax(dim=1) if masked else logits.sigmoid()
    probabilities = case.ours.classify(photographs, NAMES)
    np.testing.assert_allclose(probabilities, expected, **CLOSE)
    assert probabilities.dtype == np.float32
    assert np.ptp(probabilities, axis=0).max() > 1e-3, "all images are alike"
    np.testing.assert_allclose(case.ours.encode_images(photographs), found.image_embeds, **CLOSE)
    np.testing.assert_allclose(case.ours.encode_texts(texts), found.text_embeds, **CLOSE)


def test_prompts_and_preprocessing_are_those_of_the_torch_path(
    case: Case, photographs: list[Path]
) -> None:
    theirs = Encoder(case.model)
    for templates in ("ensemble7", ["{} in the snow"]):
        expected = theirs.class_prompts(NAMES, templates)
        np.testing.assert_allclose(case.ours.encode_classes(NAMES, templates), expected, **CLOSE)
    bare = case.ours.encode_classes(NAMES, None)
    np.testing.assert_allclose(bare, case.ours.encode_texts(NAMES), atol=1e-6)
    image = load_image(photographs[0])
    np.testing.assert_allclose(case.ours.encode_images([image])[0], theirs.image(image), **CLOSE)


def test_nothing_is_a_result_of_no_rows(case: Case) -> None:
    width = case.model.text.width
    assert case.ours.encode_images([]).shape == case.ours.encode_texts([]).shape == (0, width)
    assert case.ours.classify([], NAMES).shape == (0, 4)


def test_it_works_where_torch_is_not_installed(case: Case, photographs: list[Path]) -> None:
    lines = [
        BLOCKED,
        "import json",
        "from owlkit.runtime.dual_encoder import OnnxDualEncoder",
        f"model = OnnxDualEncoder.from_pretrained({str(case.folder)!r})",
        f"images = {[str(path) for path in photographs[:2]]!r}",
        f"print(json.dumps(model.classify(images, {NAMES!r}, 'pets').tolist()))",
    ]
    command = [sys.executable, "-W", "error", "-c", "\n".join(lines)]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert printed.returncode == 0, printed.stderr
    expected = case.ours.classify(photographs[:2], NAMES, "pets")
    np.testing.assert_allclose(json.loads(printed.stdout), expected, **CLOSE)


def test_bad_input_is_named(case: Case, photographs: list[Path]) -> None:
    with pytest.raises(ImageError, match="expected a list of images, found str"):
        case.ours.encode_images(str(photographs[0]))
    with pytest.raises(ImageError, match=r"/nowhere\.jpg"):
        case.ours.encode_images([photographs[0], "/nowhere.jpg"])
    with pytest.raises(QueryError, match="names: expected at least one class, found none"):
        case.ours.classify(photographs, [])
    with pytest.raises(QueryError, match="texts: expected a list of strings, found 'cat'"):
        case.ours.encode_texts("cat")
    with pytest.raises(QueryError, match="no templates are named 'pet'; did you mean pets"):
        case.ours.classify(photographs, NAMES, "pet")
    with pytest.raises(ConfigError, match="threads: expected at least 1, found 0"):
        OnnxDualEncoder.from_pretrained(case.folder, threads=0)
    with pytest.raises(CheckpointError, match=r"one of the sizes \(32, 32\), found \(48, 48\)"):
        OnnxDualEncoder.from_pretrained(case.folder, size=48)
    with pytest.raises(CheckpointError, match="expected onnx_detector, found 'onnx_dual_encoder'"):
        OnnxBackend(case.folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("logit_scale", None, "logit_scale: expected a finite number, found None"),
        ("logit_scale", -1.0, r"logit_scale: expected a number above 0, found -1\.0"),
        ("logit_bias", "-10", "logit_bias: expected a finite number, found '-10'"),
        ("format_version", 2, "a newer owlkit may have written it"),
        ("kind", "onnx_detector", "expected onnx_dual_encoder, found 'onnx_detector'"),
    ],
)
def test_a_damaged_description_is_named(copied: Path, key: str, value: Any, message: str) -> None:
    path = copied / "owlkit.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=message):
        OnnxDualEncoder.from_pretrained(copied)


def test_graphs_are_checked_when_they_are_needed(copied: Path, photographs: list[Path]) -> None:
    """Images need neither text graph nor tokenizer."""
    (copied / "text_encoder.onnx").write_bytes(b"other")
    ours = OnnxDualEncoder.from_pretrained(copied)
    ours.encode_images(photographs[:1])
    with pytest.raises(CheckpointError, match=r"text_encoder\.onnx: expected the file that"):
        ours.encode_texts(["cat"])
    shutil.rmtree(copied / "tokenizer")
    with pytest.raises(QueryError, match="exported without a tokenizer"):
        ours.classify(photographs[:1], NAMES)
    (copied / "image_encoder.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"image_encoder\.onnx: cannot be read"):
        OnnxDualEncoder.from_pretrained(copied)
