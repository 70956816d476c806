"""The ONNX backend, against the PyTorch backend with the same weights."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from owlkit import Predictor, QuerySet, Tiling
from owlkit.detections import Detections
from owlkit.errors import CheckpointError, ImageError, InputSizeError, QueryError
from owlkit.images import load_image
from owlkit.runtime import OnnxBackend
from owlkit.torch_backend import TorchBackend

NAMES = ["cat", "remote control", "red mug"]


@pytest.fixture(scope="module")
def backend(exported: Path) -> OnnxBackend:
    return OnnxBackend(exported, providers=["cpu"], threads=1)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def assert_equal_features(found: Any, expected: Any) -> None:
    for field in fields(expected):
        np.testing.assert_allclose(
            getattr(found, field.name), getattr(expected, field.name), rtol=1e-4, atol=1e-5
        )


def assert_same_detections(found: Detections, expected: Detections) -> None:
    assert found.names == expected.names
    side = max(expected.image_size or (1, 1))
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4 * side)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_features_texts_and_logits_are_torchs(
    backend: OnnxBackend, torch_backend: TorchBackend, batch: int
) -> None:
    """20 is more than go through the graph at a time."""
    pixels = noise(batch, 3, 64, 64)
    queries = backend.encode_texts(NAMES)
    np.testing.assert_allclose(queries, torch_backend.encode_texts(NAMES), atol=1e-5)
    ours, theirs = backend.encode_images(pixels), torch_backend.encode_images(pixels)
    assert len(ours) == batch
    for found, expected in zip(ours, theirs, strict=True):
        assert_equal_features(found, torch_backend.to_arrays(expected))
        np.testing.assert_allclose(backend.boxes(found), torch_backend.boxes(expected), atol=1e-5)
        logits = backend.score(found, queries)
        np.testing.assert_allclose(logits, torch_backend.score(expected, queries), atol=1e-3)
        assert logits.dtype == np.float32


def test_scoring_alone_is_torchs_to_the_last_digits(
    backend: OnnxBackend, torch_backend: TorchBackend
) -> None:
    """Means of unit vectors as well, whose length is below one."""
    (theirs,) = torch_backend.encode_images(noise(1, 3, 64, 64))
    ours = backend.from_arrays(torch_backend.to_arrays(theirs))
    queries = np.vstack([noise(1203, 32) / 10, np.zeros((1, 32), np.float32)])
    expected = torch_backend.score(theirs, queries)
    np.testing.assert_allclose(backend.score(ours, queries), expected, rtol=1e-5, atol=1e-5)
    assert_equal_features(backend.to_arrays(ours), torch_backend.to_arrays(theirs))


def test_it_knows_what_the_torch_model_knows(
    backend: OnnxBackend, torch_backend: TorchBackend
) -> None:
    assert backend.identity == torch_backend.identity
    assert backend.preprocessing == torch_backend.preprocessing
    assert backend.calibration == torch_backend.calibration
    assert backend.threshold == torch_backend.threshold == 0.3


def test_detections_on_photographs_are_torchs(
    backend: OnnxBackend, torch_backend: TorchBackend, data_dir: Path
) -> None:
    """Words, examples, negatives, parts and tiles."""
    photographs = sorted((data_dir / "samples").glob("*.jpg"))[:4]
    height, width = load_image(photographs[0]).shape[:2]
    queries = QuerySet.from_text(NAMES, templates=("a {}", "the {}"))
    queries.add_example("mug", photographs[0], [[0, 0, width / 2, height / 2]])
    queries.add_example("mug", photographs[1], [10, 10, 90, 90], negative=True)
    queries.update("mug", parent="cat", threshold=0.5)
    ours, theirs = Predictor(backend, batch_size=3), Predictor(torch_backend, batch_size=3)
    total = 0
    for asked, options in (
        (NAMES, {"nms_iou": 0.5}),
        (queries, {"threshold": 0.45, "nms_iou": 0.5, "top_k": 20}),
        (NAMES, {"tiles": Tiling(overlap=0.25, size=400), "nms_iou": 0.3, "top_k": 50}),
    ):
        found = ours.detect(photographs, copy.deepcopy(asked), **options)
        expected = theirs.detect(photographs, copy.deepcopy(asked), **options)
        for one, other in zip(found, expected, strict=True):
            assert_same_detections(one, other)
            total += len(one)
    assert total > 100


def test_a_saved_query_set_of_torch_answers_without_text_encoder_and_tokenizer(
    copied: Path, torch_backend: TorchBackend, data_dir: Path, tmp_path: Path
) -> None:
    photograph = data_dir / "samples" / "groceries.jpg"
    queries = QuerySet.from_text(NAMES)
    queries.add_example("thing", photograph, [[100, 100, 300, 300]])
    theirs = Predictor(torch_backend)
    theirs.embed(queries).save(tmp_path / "some.queries")
    (copied / "text_encoder.onnx").unlink()
    ours = Predictor(OnnxBackend(copied))
    found = ours.detect(photograph, QuerySet.load(tmp_path / "some.queries"), nms_iou=0.5)
    assert_same_detections(found, theirs.detect(photograph, queries, nms_iou=0.5))
    with pytest.raises(CheckpointError, match=r"text_encoder\.onnx: cannot be read: No such file"):
        ours.detect(photograph, ["something new"])


def test_a_model_without_tokenizer_says_so(copied: Path) -> None:
    for file in (copied / "tokenizer").iterdir():
        file.unlink()
    (copied / "tokenizer").rmdir()
    with pytest.raises(QueryError, match="exported without a tokenizer"):
        OnnxBackend(copied).encode_texts(["cat"])


def test_another_size_is_another_model_of_the_same_texts(
    exported: Path, backend: OnnxBackend, torch_backend: TorchBackend
) -> None:
    wide = OnnxBackend(exported, size=(48, 96))
    assert wide.preprocessing.size == (48, 96)
    assert wide.identity != backend.identity
    detector = copy.deepcopy(torch_backend.detector)
    detector.vision.set_image_size((48, 96))
    pixels = noise(2, 3, 48, 96)
    (expected, _) = TorchBackend(detector, device="cpu").encode_images(pixels)
    assert_equal_features(wide.encode_images(pixels)[0], torch_backend.to_arrays(expected))
    np.testing.assert_array_equal(wide.encode_texts(["cat"]), backend.encode_texts(["cat"]))
    assert OnnxBackend(exported, size=64).identity == backend.identity
    with pytest.raises(CheckpointError, match=r"one of the sizes \(64, 64\), \(48, 96\), found"):
        OnnxBackend(exported, size=32)


def test_results_are_arrays_of_their_own(backend: OnnxBackend) -> None:
    first, second = backend.encode_images(noise(2, 3, 64, 64))
    for features in (first, second):
        for field in fields(features):
            assert getattr(features, field.name).base is None, "a scene keeps its whole batch"
    logits = backend.score(first, backend.encode_texts(NAMES))
    logits[:] = 0
    assert backend.score(first, backend.encode_texts(NAMES)).any()


def test_equal_texts_are_encoded_once_and_no_text_is_no_row(backend: OnnxBackend) -> None:
    units = backend.encode_texts(["cat", "dog", "cat"])
    np.testing.assert_array_equal(units[0], units[2])
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, atol=1e-5)
    assert backend.encode_texts([]).shape == (0, 32)
    assert backend.encode_images(noise(0, 3, 64, 64)) == []


def test_binding_buffers_changes_nothing(exported: Path, backend: OnnxBackend) -> None:
    """Other shapes in between make other buffers; results of before stay as they were."""
    bound = OnnxBackend(exported, providers=["cpu"], threads=1, io_binding=True)
    pixels = noise(3, 3, 64, 64)
    kept = []
    for batch in (pixels, pixels[::-1], pixels[:1], pixels):
        kept.append((bound.encode_images(batch), backend.encode_images(batch)))
        texts = NAMES[: len(batch)]
        np.testing.assert_array_equal(bound.encode_texts(texts), backend.encode_texts(texts))
    for ours, plain in kept:
        for found, expected in zip(ours, plain, strict=True):
            np.testing.assert_array_equal(found.class_embeds, expected.class_embeds)
            np.testing.assert_array_equal(found.boxes, expected.boxes)


@pytest.mark.parametrize("io_binding", [False, True])
def test_several_threads_get_their_own_answers(exported: Path, io_binding: bool) -> None:
    backend = OnnxBackend(exported, threads=1, io_binding=io_binding)
    pixels = noise(8, 3, 64, 64)
    expected = [backend.encode_images(pixels[row : row + 1])[0] for row in range(8)]

    def encode(row: int) -> tuple[Any, Any]:
        return backend.encode_texts([f"cat {row}"]), backend.encode_images(pixels[row : row + 1])[0]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(encode, range(8)))
    for row, (text, features) in enumerate(found):
        np.testing.assert_array_equal(features.class_embeds, expected[row].class_embeds)
        np.testing.assert_array_equal(text, backend.encode_texts([f"cat {row}"]))


def _with_nan() -> np.ndarray:
    pixels = noise(2, 3, 64, 64)
    pixels[1, 2, 3, 4] = np.nan
    return pixels


@pytest.mark.parametrize(
    ("pixels", "error", "message"),
    [
        (lambda: noise(1, 3, 64, 64).astype(np.float64), ImageError, "found float64 [1, 3, 64"),
        (lambda: noise(1, 4, 64, 64), ImageError, "found float32 [1, 4, 64, 64]"),
        (lambda: noise(3, 64, 64), ImageError, "found float32 [3, 64, 64]"),
        (lambda: noise(1, 64, 64, 3), ImageError, "found float32 [1, 64, 64, 3]"),
        (lambda: [[0.0]], ImageError, "found list"),
        (lambda: noise(1, 3, 64, 96), InputSizeError, "found [1, 3, 64, 96]"),
        (_with_nan, ImageError, "image 1: expected finite pixels"),
        (lambda: noise(1, 3, 64, 64) / 0, ImageError, "image 0: expected finite pixels"),
    ],
)
@np.errstate(divide="ignore")
def test_bad_pixels_are_named(
    backend: OnnxBackend, pixels: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        backend.encode_images(pixels())
    assert message in str(caught.value)


def test_bad_queries_are_named(backend: OnnxBackend, data_dir: Path) -> None:
    (features,) = backend.encode_images(noise(1, 3, 64, 64))
    with pytest.raises(QueryError, match=r"\[Q, 32\]; found \[2, 31\]: they are of another model"):
        backend.score(features, noise(2, 31))
    # No memory is asked for before the logits.
    many = np.broadcast_to(noise(1, 32), (10**13, 32))
    with pytest.raises(QueryError, match="expected fewer queries at a time, found 10000000000000"):
        backend.score(features, many)
    with pytest.raises(QueryError):
        Predictor(backend).detect(data_dir / "samples" / "groceries.jpg", [])
