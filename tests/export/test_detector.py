"""Exported detectors, run by ONNX Runtime, against the detectors in torch."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from owlkit import OwlDetector, Predictor
from owlkit.calibration import Calibration
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.errors import CheckpointError, ConfigError, InputSizeError
from owlkit.export import ExportReport, Tolerance, export_detector
from owlkit.export import detector as exporting
from owlkit.models.heads import unit_embeddings
from owlkit.models.identity import detector_identity
from owlkit.torch_backend import TorchBackend
from tests.export.models import KINDS, class_token, siglip

TEXTS = ["a cat", "a dog", "a red mug"]
# Whose positions depend on the size of the images.
RESAMPLED = ("class_token", "dinov2", "dinov3")
# Rounding in another order; the issue allows 1e-4 for boxes and 1e-3 for logits.
CLOSE = {"atol": 5e-5, "rtol": 0}


class Exported:
    """A folder and its graphs, opened without owlkit."""

    def __init__(self, report: ExportReport) -> None:
        self.report, self.folder = report, report.folder
        self.manifest = json.loads((self.folder / "owlkit.json").read_text())

    def session(self, name: str) -> Any:
        providers = ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(str(self.folder / name), providers=providers)

    def images(self, pixels: torch.Tensor, name: str = "image_encoder.onnx") -> dict[str, Any]:
        session = self.session(name)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"pixels": pixels.numpy()}), strict=True))

    def texts(self, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        return self.session("text_encoder.onnx").run(["query_embeds"], feeds)[0]


@pytest.fixture(scope="module")
def photographs(data_dir: Path) -> list[Path]:
    found = sorted(path for path in data_dir.rglob("*.jpg") if path.stat().st_size > 10_000)
    assert len(found) >= 3
    return found[:3]


@torch.no_grad()
def assert_same_answers(detector: OwlDetector, exported: Exported) -> None:
    """Five images of each size and three texts, none of which the export has seen."""
    generator = torch.Generator().manual_seed(99)
    for entry in exported.manifest["graphs"]["image_encoder"]:
        pixels = torch.randn(5, 3, *entry["size"], generator=generator)
        features, found = detector.encode_images(pixels), exported.images(pixels, entry["file"])
        np.testing.assert_allclose(found["class_embeds"], features.class_embeds, **CLOSE)
        np.testing.assert_allclose(found["boxes"], features.boxes, **CLOSE)
        np.testing.assert_allclose(found["logit_shift"], features.logit_shift[..., 0], **CLOSE)
        np.testing.assert_allclose(found["logit_scale"], features.logit_scale[..., 0], **CLOSE)
        assert ("objectness" in found) == (features.objectness is not None)
        if features.objectness is not None:
            np.testing.assert_allclose(found["objectness"], features.objectness, **CLOSE)
        assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
        # Boxes that do not depend on the image would prove nothing.
        assert np.ptp(found["boxes"], axis=0).max() > 1e-3
    assert detector.tokenizer is not None
    ids, mask = detector.tokenizer(TEXTS, pad_to_full=detector.text.needs_full_length)
    expected = unit_embeddings(detector.encode_text(ids, mask))
    np.testing.assert_allclose(exported.texts(ids, mask), expected, **CLOSE)


def assert_same_detections(
    detector: OwlDetector, folder: Path, photographs: Sequence[Path]
) -> None:
    """The best boxes of three words after NMS, whatever the batch."""
    theirs = Predictor(TorchBackend(detector, device="cpu"))
    ours = Predictor.from_pretrained(folder, device="cpu")
    wide = theirs.detect(photographs[0], TEXTS, threshold=0.0, nms_iou=0.5)
    # Between two scores, so that rounding decides nothing.
    gaps = wide.scores[5:-1] - wide.scores[6:]
    place = 5 + int(gaps.argmax())
    threshold = float(wide.scores[place : place + 2].mean())
    for paths in (photographs[:1], photographs):
        pairs = zip(
            ours.detect(list(paths), TEXTS, threshold=threshold, nms_iou=0.5),
            theirs.detect(list(paths), TEXTS, threshold=threshold, nms_iou=0.5),
            strict=True,
        )
        for found, expected in pairs:
            side = max(expected.image_size or (1, 1))
            assert found.names == expected.names
            np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4 * side)
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert len(wide) > place > 0


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_detectors(
    tmp_path: Path, tokenizer: Tokenizer, kind: str, photographs: list[Path]
) -> None:
    detector = KINDS[kind](tokenizer)
    height, width = detector.vision.image_size
    sizes = [(height, width)]
    if kind in RESAMPLED:
        sizes.append((height, width + 2 * detector.vision.patch_size))
    exported = Exported(export_detector(detector, tmp_path / "onnx", sizes=sizes))
    assert_same_answers(detector, exported)
    assert_same_detections(detector, exported.folder, photographs)


def test_texts_of_full_length_only(tmp_path: Path) -> None:
    detector = siglip(tmp_path)
    exported = Exported(export_detector(detector, tmp_path / "onnx"))
    assert_same_answers(detector, exported)
    ids = exported.session("text_encoder.onnx").get_inputs()[0]
    assert ids.shape == ["query", 12]


@pytest.fixture(scope="module")
def owlv2(owlv2_folder: Path) -> OwlDetector:
    """As transformers saves it, and calibrated."""
    detector = OwlDetector.from_pretrained(owlv2_folder)
    detector.calibration = Calibration.linear(1.5, -0.25)
    detector.threshold = 0.3
    return detector


@pytest.fixture(scope="module")
def exported(
    owlv2: OwlDetector, photographs: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    return Exported(export_detector(owlv2, folder, photographs=photographs))


def test_transformers_own_model(owlv2: OwlDetector, exported: Exported) -> None:
    assert_same_answers(owlv2, exported)


def test_the_manifest_says_what_a_runtime_needs(owlv2: OwlDetector, exported: Exported) -> None:
    manifest = exported.manifest
    assert (manifest["format_version"], manifest["kind"]) == (1, "onnx_detector")
    assert manifest["identity"] == detector_identity(owlv2)
    assert manifest["preprocessing"] == json.loads(json.dumps(owlv2.preprocessing.to_dict()))
    assert Calibration.from_dict(manifest["calibration"]) == owlv2.calibration
    assert manifest["threshold"] == 0.3
    assert (manifest["objectness"], manifest["embed_width"]) == (True, owlv2.text.width)
    assert (manifest["opset"], manifest["precision"]) == (20, "float32")
    (image,), text = (manifest["graphs"][key] for key in ("image_encoder", "text_encoder"))
    assert image["size"] == list(owlv2.preprocessing.size)
    for entry in (image, text):
        content = (exported.folder / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()


def test_graphs_hold_standard_operators_and_no_private_paths(exported: Exported) -> None:
    for path in exported.folder.glob("*.onnx"):
        model = onnx.load(path)
        assert {node.domain for node in model.graph.node} == {""}
        assert not model.functions
        assert [(each.domain, each.version) for each in model.opset_import] == [("", 20)]
        assert str(Path(exporting.__file__).parent).encode() not in path.read_bytes()


def test_batches_queries_and_lengths_are_free(exported: Exported) -> None:
    shapes = {
        value.name: value.shape
        for name in ("image_encoder.onnx", "text_encoder.onnx")
        for value in exported.session(name).get_inputs()
    }
    assert shapes["pixels"] == ["batch", 3, 64, 64]
    assert shapes["input_ids"] == shapes["attention_mask"] == ["query", "length"]


def test_the_report_shows_every_output_and_every_case(
    exported: Exported, photographs: list[Path]
) -> None:
    deviations = exported.report.parity.deviations
    cases = {each.case for each in deviations}
    wanted = {
        f"noise, batch {batch}, {count} queries" for batch, count in ((1, 1), (3, 7), (8, 1203))
    }
    assert wanted | {"photographs 0 to 2, 1 queries", "1203 texts of 6 tokens"} <= cases
    outputs = {each.output for each in deviations}
    assert {"boxes", "objectness", "logits", "class_embeds", "query_embeds"} <= outputs
    assert all(each.difference < 1e-4 for each in deviations)
    card = (exported.folder / "README.md").read_text()
    assert exported.report.parity.table() in card
    rows = exported.manifest["measured"]["parity"]["rows"]
    assert len(rows) == len(deviations)


def test_the_tokenizer_is_one_file(owlv2: OwlDetector, exported: Exported) -> None:
    settings = json.loads((exported.folder / "tokenizer" / "owlkit_tokenizer.json").read_text())
    assert owlv2.tokenizer is not None
    assert settings == {
        "context_length": owlv2.tokenizer.context_length,
        "pad_id": owlv2.tokenizer.pad_token_id,
        "end_id": owlv2.tokenizer.eos_token_id,
        "pad_to_full": False,
    }


def test_a_graph_that_differs_leaves_nothing_behind(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, write = class_token(tokenizer), exporting.write_image_graph

    def write_another(model: OwlDetector, path: Path) -> None:
        with torch.no_grad():
            model.box_head.dense2.bias += 0.01
        write(model, path)
        with torch.no_grad():
            model.box_head.dense2.bias -= 0.01

    monkeypatch.setattr(exporting, "write_image_graph", write_another)
    with pytest.raises(CheckpointError, match=r"expected graphs that agree(.|\n)*\| boxes \| 2"):
        export_detector(detector, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_step_may_rewrite_graphs_and_says_what_it_measured(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    def add_weight(folder: Path) -> dict[str, Any]:
        model = onnx.load(folder / "text_encoder.onnx")
        model.doc_string = "rewritten"
        onnx.save(model, folder / "text_encoder.onnx")
        return {"rewriting": {"gain": 2.0}}

    report = export_detector(class_token(tokenizer), tmp_path / "onnx", steps=[add_weight])
    exported = Exported(report)
    assert report.measured == {"rewriting": {"gain": 2.0}}
    assert exported.manifest["measured"]["rewriting"] == {"gain": 2.0}
    content = (tmp_path / "onnx" / "text_encoder.onnx").read_bytes()
    digest = exported.manifest["graphs"]["text_encoder"]["sha256"]
    assert digest == hashlib.sha256(content).hexdigest()


def test_a_detector_without_tokenizer_answers_embeddings_only(tmp_path: Path) -> None:
    detector = class_token(None)  # type: ignore[arg-type]
    exported = Exported(export_detector(detector, tmp_path / "onnx"))
    assert list(exported.manifest["graphs"]) == ["image_encoder"]
    assert not (tmp_path / "onnx" / "tokenizer").exists()


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ([(64, 64), (64, 64)], ConfigError, "each size once"),
        ([(64, 65)], InputSizeError, "found 64x65"),
    ],
)
def test_sizes_that_cannot_be(
    tmp_path: Path, tokenizer: Tokenizer, sizes: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export_detector(class_token(tokenizer), tmp_path / "onnx", sizes=sizes)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_stays(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds files but no owlkit\.json"):
        export_detector(class_token(tokenizer), tmp_path, tolerance=Tolerance(boxes=math.inf))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_model_that_rounding_moves_is_judged_by_that(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Untrained heads may be so steep that float32 says little about a box."""
    detector = class_token(tokenizer)
    with torch.no_grad():
        detector.box_head.dense2.weight.mul_(1e3)
    report = export_detector(detector, tmp_path / "onnx", tolerance=Tolerance(boxes=1e-6))
    boxes = next(each for each in report.parity.worst if each.output == "boxes")
    assert boxes.tolerance is not None
    assert 1e-6 < boxes.difference <= boxes.tolerance < 0.1
