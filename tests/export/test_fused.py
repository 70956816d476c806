"""The graph from pixels to detections, against the predictor and its postprocessing on torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from owlkit import Predictor
from owlkit.calibration import Calibration
from owlkit.detections import Detections
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.errors import CheckpointError, QueryError
from owlkit.export.detector_graphs import write_image_graph
from owlkit.export.fused import OUTPUTS, write_fused
from owlkit.export.fused_check import check_fused
from owlkit.export.graphs import check_graph
from owlkit.images import load_image
from owlkit.models.detector import OwlDetector
from owlkit.torch_backend import TorchBackend
from tests.export.models import class_token

WORDS = ("cat", "dog", "a red mug", "truck")
CALIBRATIONS = {
    "sigmoid": None,
    "linear": Calibration.linear(0.6, 0.2),
    "isotonic": Calibration.isotonic([-8, -3, -1, 0, 4], [0.001, 0.02, 0.3, 0.3, 0.9]),
}
AREA = np.array([[0, 0, 1, 1]], np.float32)


@dataclass(frozen=True)
class Exported:
    """A random OWLv2 whose image side was written as a graph."""

    detector: OwlDetector
    folder: Path

    def write(self, **options: Any) -> Callable[..., dict[str, NDArray[Any]]]:
        """Writes the fused graph and returns a function that runs it."""
        path = write_fused(self.folder, **options)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def run(
            pixels: NDArray[np.float32],
            queries: NDArray[np.float32],
            threshold: float = 0.1,
            iou: float = 0.5,
            area: NDArray[np.float32] = AREA,
        ) -> dict[str, NDArray[Any]]:
            inputs = {
                "pixels": pixels,
                "query_embeds": queries,
                "score_threshold": np.array(threshold, np.float32),
                "iou_threshold": np.array(iou, np.float32),
                "image_area": area,
            }
            return dict(zip(OUTPUTS, session.run(list(OUTPUTS), inputs), strict=True))

        return run


@pytest.fixture(scope="module")
def exported(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    detector = class_token(Tokenizer.from_pretrained(tokenizer_folder))
    folder = tmp_path_factory.mktemp("fused")
    write_image_graph(detector, folder / "image_encoder.onnx")
    return Exported(detector, folder)


@pytest.fixture
def predictor(exported: Exported) -> Iterator[Predictor]:
    yield Predictor(TorchBackend(exported.detector, device="cpu"))
    exported.detector.calibration = None


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def units(count: int) -> NDArray[np.float32]:
    queries = noise(count, 32)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


@pytest.mark.parametrize(("iou", "top_k"), [(0.5, 300), (0.2, 9), (1.0, 20)])
@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_photographs_give_the_predictors_detections(
    exported: Exported, predictor: Predictor, data_dir: Path, kind: str, iou: float, top_k: int
) -> None:
    exported.detector.calibration = CALIBRATIONS[kind]
    # Wide, tall and square ones: all but the last are padded.
    photographs = [load_image(path) for path in sorted((data_dir / "samples").glob("*.jpg"))]
    photographs += [photographs[0][:, :200], photographs[0][:150]]
    prepared = [predictor.backend.preprocessing(image) for image in photographs]
    areas = [
        transform.apply([[0, 0, image.shape[1], image.shape[0]]])[0]
        for image, (_, transform) in zip(photographs, prepared, strict=True)
    ]
    assert min(area[2:].min() for area in areas) < 0.8
    scores = np.concatenate([each.scores for each in everything(predictor, photographs)])
    threshold = middle_of_a_gap(scores)

    found = exported.write(calibration=CALIBRATIONS[kind], top_k=top_k)(
        np.stack([pixels for pixels, _ in prepared]),
        predictor.backend.encode_texts(WORDS),
        threshold,
        iou,
        np.stack(areas),
    )

    assert found["labels"].dtype == found["batch_index"].dtype == np.int64
    assert found["boxes"].dtype == found["scores"].dtype == np.float32
    expected = predictor.detect(photographs, WORDS, threshold=threshold, nms_iou=iou, top_k=top_k)
    assert sum(map(len, expected)) > 20
    for row, (detections, (_, transform)) in enumerate(zip(expected, prepared, strict=True)):
        mine = found["batch_index"] == row
        np.testing.assert_array_equal(found["labels"][mine], detections.labels)
        np.testing.assert_allclose(found["scores"][mine], detections.scores, rtol=0, atol=1e-5)
        boxes = transform.invert(found["boxes"][mine])
        longest = max(transform.image_size)
        np.testing.assert_allclose(boxes, detections.boxes, rtol=0, atol=1e-5 * longest)
    assert (np.diff(found["batch_index"]) >= 0).all()


def everything(predictor: Predictor, images: list[Any]) -> list[Detections]:
    return predictor.detect(images, WORDS, threshold=0)


def middle_of_a_gap(scores: NDArray[np.float32]) -> float:
    """A threshold that a quarter of the scores pass, and none comes near to."""
    ordered = np.sort(scores)[::-1]
    some = ordered[len(ordered) // 5 : len(ordered) // 4]
    widest = int(np.argmax(some[:-1] - some[1:]))
    return float((some[widest] + some[widest + 1]) / 2)


def test_patches_are_rows_of_the_image_encoder(exported: Exported) -> None:
    pixels, queries = noise(3, 3, 64, 64), units(7)
    found = exported.write()(pixels, queries, 0.0, 1.0)
    session = onnxruntime.InferenceSession(str(exported.folder / "image_encoder.onnx"))
    (boxes,) = session.run(["boxes"], {"pixels": pixels})
    boxes = boxes[found["batch_index"], found["patches"]]
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    np.testing.assert_allclose(found["boxes"], corners.clip(0, 1), atol=1e-6)
    # Nothing is suppressed at 1 and no pair lies below 0: 16 patches and 7 queries of 3 images.
    assert len(boxes) == 3 * 16 * 7


def test_equal_scores_come_by_patch_then_query(exported: Exported) -> None:
    found = exported.write()(noise(1, 3, 64, 64), units(1).repeat(3, axis=0), 0.0, 1.0)
    patches = found["patches"].reshape(-1, 3)
    assert (patches == patches[:, :1]).all()
    assert found["labels"].tolist() == [0, 1, 2] * 16
    best = exported.write(top_k=5)(noise(1, 3, 64, 64), units(1).repeat(3, axis=0), 0.0, 1.0)
    assert best["labels"].tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_a_returned_score_as_threshold_drops_its_own_pair(exported: Exported, kind: str) -> None:
    run = exported.write(calibration=CALIBRATIONS[kind])
    pixels, queries = noise(1, 3, 64, 64), units(7)
    scores = run(pixels, queries, 0.0, 1.0)["scores"]
    for score in scores[::10]:
        left = run(pixels, queries, float(score), 1.0)["scores"]
        np.testing.assert_array_equal(left, scores[scores > score])


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_where_nothing_is_found_outputs_are_empty(exported: Exported, kind: str) -> None:
    run = exported.write(calibration=CALIBRATIONS[kind])
    outside = np.array([[0, 0, 0, 1]], np.float32)
    for found in (
        run(noise(2, 3, 64, 64), units(7), 1.0),
        run(noise(2, 3, 64, 64), units(0), 0.0),
        run(noise(2, 3, 64, 64), units(7), 0.0, area=outside),
    ):
        assert found["boxes"].shape == (0, 4)
        assert all(len(found[name]) == 0 for name in OUTPUTS)


def test_the_graph_is_plain_onnx_and_reads_no_objectness(exported: Exported) -> None:
    exported.write()
    check_graph(exported.folder / "detector.onnx")
    model = onnx.load(exported.folder / "detector.onnx")
    assert not [each.name for each in model.graph.initializer if "objectness" in each.name]
    encoder = onnx.load(exported.folder / "image_encoder.onnx")
    assert [each.name for each in encoder.graph.initializer if "objectness" in each.name]


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_the_comparison_accepts_the_right_graph_and_no_other(exported: Exported, kind: str) -> None:
    path = write_fused(exported.folder, calibration=CALIBRATIONS[kind])
    options = {"size": (64, 64), "width": 32, "calibration": CALIBRATIONS[kind]}
    encoder = exported.folder / "image_encoder.onnx"
    parity = check_fused(path, encoder, **options)
    parity.check(path)
    counts = {each.output: each.difference for each in parity.worst}
    assert counts["differing"] == 0
    assert counts["scores"] < 1e-6
    wrong = write_fused(exported.folder, calibration=Calibration.linear(1.01), file="wrong.onnx")
    with pytest.raises(CheckpointError, match="expected graphs that agree"):
        check_fused(wrong, encoder, **options).check(wrong)


def test_weights_in_a_file_of_their_own_are_shared(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported.folder / "image_encoder.onnx")
    onnx.save(
        model,
        tmp_path / "image_encoder.onnx",
        save_as_external_data=True,
        location="image_encoder.onnx.data",
    )
    apart = Exported(exported.detector, tmp_path).write()(noise(1, 3, 64, 64), units(7))
    whole = exported.write()(noise(1, 3, 64, 64), units(7))
    for name in OUTPUTS:
        np.testing.assert_array_equal(apart[name], whole[name])
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"image_encoder.onnx", "image_encoder.onnx.data", "detector.onnx"}
    assert sizes["detector.onnx"] < sizes["image_encoder.onnx.data"]


def test_what_cannot_be_fused_is_explained(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected an image encoder, found no such file"):
        write_fused(tmp_path)
    write_fused(exported.folder)
    with pytest.raises(CheckpointError, match="found a graph from pixels, query_embeds"):
        write_fused(exported.folder, encoder="detector.onnx", file="twice.onnx")
    (tmp_path / "image_encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match="not readable as an ONNX graph"):
        write_fused(tmp_path)
    with pytest.raises(QueryError, match="top_k"):
        write_fused(exported.folder, top_k=0, file="none.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["image_encoder.onnx"]
    assert not {"twice.onnx", "none.onnx"} & {path.name for path in exported.folder.iterdir()}
