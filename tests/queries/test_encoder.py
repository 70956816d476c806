"""Query sets and a model: what is encoded, when, and what is found with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from owlkit import OwlDetector, Predictor, QuerySet
from owlkit.calibration import Calibration
from owlkit.errors import QueryError, QueryWarning
from owlkit.ops import cxcywh_to_xyxy
from owlkit.patch_choice import choose_patch
from owlkit.scene_cache import SceneCache
from owlkit.tiling import Tiling
from owlkit.torch_backend import TorchBackend
from tests.counting import CountingBackend


def counting(folder: Path, **options: Any) -> tuple[Predictor, CountingBackend]:
    backend = CountingBackend(OwlDetector.from_pretrained(folder), device="cpu", **options)
    return Predictor(backend), backend


def photo(seed: int, height: int = 48, width: int = 90) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((2 * width, 2 * height)))


@torch.no_grad()
def test_an_example_asks_for_its_patch(owlv2_folder: Path) -> None:
    """The slow, obvious way: encode, choose, normalise, score, sigmoid."""
    predictor, backend = counting(owlv2_folder)
    example, target = photo(0), photo(1)
    queries = QuerySet()
    queries.add_example("thing", example, [20, 10, 90, 60])
    found = predictor.detect(target, queries, threshold=0.0)

    detector = backend.detector
    pixels = [torch.from_numpy(detector.preprocessing(one)[0])[None] for one in (example, target)]
    features, other = (detector.encode_images(one) for one in pixels)
    # OWLv2 pads at the bottom: both sides are fractions of the longer one.
    chosen = choose_patch(
        backend.to_arrays(features), np.array([20, 10, 90, 60]) / 180, extent=(0, 0, 1, 96 / 180)
    )
    vector = features.class_embeds[0, chosen.patch]
    scores = detector.score(other, vector[None])[0, :, 0].sigmoid().numpy()
    visible = backend.boxes(other)[:, 1] < 96 / 180  # the others lie wholly in the padding
    expected = np.sort(scores[visible])[::-1]
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    (seen,) = predictor.chosen(queries, "thing")
    assert (seen.patch, seen.iou) == (chosen.patch, pytest.approx(chosen.iou, abs=1e-6))
    unit = (vector / vector.norm()).numpy()
    np.testing.assert_allclose(seen.vector, unit, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*texts alone")
def test_everything_is_encoded_once(owlv2_folder: Path) -> None:
    predictor, backend = counting(owlv2_folder)
    queries = QuerySet.from_text(["cat", "dog"], background=[""])
    queries.add_example("cat", photo(0), [[0, 0, 60, 60], [30, 20, 90, 80]])
    queries.add_example("dog", photo(1), [0, 0, 60, 60], negative=True)
    scene = predictor.encode(photo(2))
    first = predictor.detect(scene, queries, threshold=0.2)
    assert (backend.images, list(backend.texts)) == (3, ["cat", "dog", ""])
    for options in ({"threshold": 0.5}, {"nms_iou": 0.3}, {"class_agnostic": True}):
        predictor.detect(scene, queries, **options)  # type: ignore[arg-type]
    part = predictor.detect(scene, queries.subset(["dog"]), threshold=0.2)
    dogs = first[first.labels == 1]
    np.testing.assert_array_equal(part.boxes, dogs.boxes)
    np.testing.assert_allclose(part.scores, dogs.scores, atol=1e-6)
    assert (backend.images, len(backend.texts)) == (3, 3)
    queries.add_text("cat", ["kitten"])
    predictor.detect(scene, queries)
    assert (backend.images, backend.texts[3:]) == (3, ["kitten"])


def test_a_saved_set_answers_without_a_network(owlv2_folder: Path, tmp_path: Path) -> None:
    predictor, _ = counting(owlv2_folder)
    queries = QuerySet.from_text(["cat"])
    queries.add_example("mug", photo(0), [0, 0, 60, 60])
    predictor.embed(queries).save(tmp_path / "x.queries", images="none")
    expected = predictor.detect(photo(1), queries, threshold=0.1)
    again, backend = counting(owlv2_folder)
    scene = again.encode(photo(1))
    found = again.detect(scene, QuerySet.load(tmp_path / "x.queries"), threshold=0.1)
    assert (backend.images, list(backend.texts)) == (1, [])
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    # The same weights in another precision take the same embeddings.
    half, backend = counting(owlv2_folder, precision="bfloat16")
    half.detect(photo(1), QuerySet.load(tmp_path / "x.queries"))
    assert (backend.images, list(backend.texts)) == (1, [])


def test_another_model_makes_its_own_or_says_why_not(
    owlv2_folder: Path, owlvit_folder: Path, tmp_path: Path
) -> None:
    predictor, _ = counting(owlv2_folder)
    Image.fromarray(photo(0)).save(tmp_path / "photo.png")
    queries = QuerySet.from_text(["cat"])
    queries.add_example("mug", tmp_path / "photo.png", [0, 0, 60, 60])
    predictor.embed(queries).save(tmp_path / "x.queries")
    other, backend = counting(owlvit_folder)
    read = QuerySet.load(tmp_path / "x.queries")
    found = other.detect(photo(1), read, threshold=0.1)
    assert (backend.images, list(backend.texts)) == (2, ["cat"])
    assert found == other.detect(photo(1), read, threshold=0.1)
    assert len(read.models) == 2
    (tmp_path / "photo.png").unlink()
    read = QuerySet.load(tmp_path / "x.queries")
    with pytest.raises(QueryError, match=r"class 'mug': .*not be.*|class 'mug'.*no such file"):
        Predictor(backend).detect(photo(1), read)
    # The model that knows the example still answers.
    assert len(predictor.detect(photo(1), read, threshold=0.1))


def test_identity_is_that_of_weights_and_preprocessing(
    owlv2_folder: Path, owlvit_folder: Path, tmp_path: Path
) -> None:
    detector = OwlDetector.from_pretrained(owlv2_folder)
    identity = TorchBackend(detector, device="cpu").identity
    detector.save_pretrained(tmp_path / "own")
    assert Predictor.from_pretrained(tmp_path / "own", device="cpu").backend.identity == identity
    others = [
        Predictor.from_pretrained(owlvit_folder, device="cpu"),
        Predictor.from_pretrained(owlv2_folder, device="cpu", convention="scenic"),
    ]
    with torch.no_grad():
        detector.class_head.dense.bias[0] += 1e-4
    others.append(Predictor(TorchBackend(detector, device="cpu")))
    assert len({identity, *(one.backend.identity for one in others)}) == 4


def test_a_crop_is_taken_with_a_warning(
    owlv2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, backend = counting(owlv2_folder)
    with torch.no_grad():
        # Every box as large as it can be around its corner of a patch.
        backend.detector.box_head.dense2.weight.zero_()
        backend.detector.box_head.dense2.bias.copy_(torch.tensor([0.0, 0.0, 20.0, 20.0]))
    queries = QuerySet()
    queries.add_example("mug", photo(0, 60, 60))
    monkeypatch.setattr("owlkit.queries.encoder._MOST_COVERED", 0.2)
    with pytest.warns(QueryWarning, match="class 'mug': the example fills its image"):
        predictor.embed(queries)


def test_thresholds_and_calibrations_of_classes(owlv2_folder: Path) -> None:
    predictor, backend = counting(owlv2_folder)
    scene = predictor.encode(photo(0))
    queries = QuerySet.from_text(["cat", "dog", "owl"])
    plain = predictor.detect(scene, queries, threshold=0.0)
    middle = float(np.median(plain.scores[plain.labels == 0]))
    queries.update("cat", threshold=middle)
    queries.update("dog", calibration=Calibration.linear(2.0, -1.0))
    backend.detector.threshold = 0.0
    found = predictor.detect(scene, queries)
    assert (found.scores[found.labels == 0] > middle).all()
    assert 0 < (found.labels == 0).sum() < (plain.labels == 0).sum()
    odds = np.log(plain.scores / (1 - plain.scores.astype(np.float64)))
    expected = 1 / (1 + np.exp(-(2 * odds[plain.labels == 1] - 1)))
    np.testing.assert_allclose(found.scores[found.labels == 1], expected, atol=1e-5)
    np.testing.assert_array_equal(found.scores[found.labels == 2], plain.scores[plain.labels == 2])
    backend.detector.calibration = Calibration.linear(0.5)
    again = predictor.detect(scene, queries, threshold=0.0)
    np.testing.assert_allclose(
        again.scores[again.labels == 2],
        1 / (1 + np.exp(-0.5 * odds[plain.labels == 2])),
        atol=1e-5,
    )
    # A threshold that is given is that of all.
    assert (predictor.detect(scene, queries, threshold=0.0).labels == 0).sum() == (
        plain.labels == 0
    ).sum()


def test_calibration_and_threshold_travel_with_the_model(
    owlv2_folder: Path, tmp_path: Path
) -> None:
    detector = OwlDetector.from_pretrained(owlv2_folder)
    detector.calibration, detector.threshold = Calibration.linear(0.5, 0.25), 0.3
    detector.save_pretrained(tmp_path / "m")
    backend = Predictor.from_pretrained(tmp_path / "m", device="cpu").backend
    assert (backend.calibration, backend.threshold) == (detector.calibration, 0.3)


def test_scenes_are_kept_by_content(owlv2_folder: Path, tmp_path: Path) -> None:
    _, backend = counting(owlv2_folder)
    Image.fromarray(photo(0)).save(tmp_path / "photo.png")
    predictor = Predictor(backend, cache=SceneCache(memory=4, folder=tmp_path / "cache"))
    first = predictor.detect([tmp_path / "photo.png", photo(1), photo(0)], ["cat"], threshold=0.2)
    assert backend.images == 2
    assert predictor.detect([photo(0), photo(1)], ["cat"], threshold=0.2) == first[:2]
    assert backend.images == 2
    # Another process, or the same one later, reads them from disk.
    later = Predictor(backend, cache=SceneCache(memory=0, folder=tmp_path / "cache"))
    (found,) = later.detect([photo(1)], ["cat"], threshold=0.2)
    np.testing.assert_allclose(found.scores, first[1].scores, atol=1e-6)
    np.testing.assert_allclose(found.boxes, first[1].boxes, atol=1e-3)
    assert backend.images == 2
    # Features of another precision are others, though queries may be shared.
    _, half = counting(owlv2_folder, precision="bfloat16")
    assert half.identity == backend.identity
    Predictor(half, cache=SceneCache(folder=tmp_path / "cache")).encode(photo(1))
    assert half.images == 1


def test_parts_are_looked_for_in_the_boxes_of_the_whole(owlv2_folder: Path) -> None:
    predictor, backend = counting(owlv2_folder)
    queries = QuerySet.from_text(["face", "eye", "cat"])
    queries.update("eye", parent="face")
    image = photo(0)
    roots = predictor.detect(image, ["face", "cat"], threshold=[0.4, 0.5], nms_iou=0.3)
    before = backend.images
    found = predictor.detect(image, queries, threshold=[0.4, 0.45, 0.5], nms_iou=0.3)
    faces = (roots.labels == 0).sum()
    assert backend.images == before + 1 + faces
    assert found.parents is not None
    assert (found.labels == 0).sum() == faces > 0
    assert (found.labels == 2).sum() == (roots.labels == 1).sum()
    eyes = np.flatnonzero(found.labels == 1)
    assert len(eyes)
    for row in eyes:
        parent = found.boxes[found.parents[row]]
        assert found.names[found.parents[row]] == "face"
        assert (found.boxes[row][:2] >= parent[:2]).all()
        assert (found.boxes[row][2:] <= parent[2:]).all()
    assert (found.scores[eyes] > 0.45).all()
    # From a scene, the crops come from the image it was made of.
    again = predictor.detect(
        predictor.encode(image), queries, threshold=[0.4, 0.45, 0.5], nms_iou=0.3
    )
    assert again == found


def test_tiles_need_an_image(owlv2_folder: Path) -> None:
    predictor, backend = counting(owlv2_folder)
    with pytest.raises(QueryError, match="found an encoded scene"):
        predictor.detect(predictor.encode(photo(0)), ["cat"], tiles=Tiling())
    before = backend.images
    found = predictor.detect(photo(0, 100, 150), ["cat"], threshold=0.3, tiles=Tiling(whole=False))
    # 300 x 200 pixels in tiles of 64 that share a quarter.
    assert backend.images - before == 6 * 4
    assert found.image_size == (200, 300)
    assert found.source is not None


def test_embeddings_of_another_width_are_refused(owlv2_folder: Path) -> None:
    """A file may claim any model."""
    predictor, backend = counting(owlv2_folder)
    queries = QuerySet.from_text(["cat"])
    queries.table(backend.identity).texts["cat"] = np.ones(5, np.float32)
    with pytest.raises(QueryError, match=r"expected queries as wide .* found 5"):
        predictor.detect(photo(0), queries)


@pytest.mark.parametrize(
    ("size", "tolerance"), [((64, 64), 1e-5), ((96, 180), 1e-3)], ids=["as it is", "resized"]
)
@pytest.mark.parametrize("model_type", ["owlv2", "owlvit"])
@torch.no_grad()
def test_an_image_asks_as_it_does_in_transformers(
    model_type: str, size: tuple[int, int], tolerance: float, save_huggingface_owl: Any
) -> None:
    """From images to scores: the patch that stands for a whole image, and all that it finds.

    Scores are those of `transformers` before it stretches them to 1 in each image. Resized images
    differ by the rounding of the two implementations.
    """
    folder = save_huggingface_owl(model_type)
    example, target = (Image.fromarray(photo(seed, size[0] // 2, size[1] // 2)) for seed in (3, 4))
    predictor = Predictor.from_pretrained(folder, device="cpu")
    queries = QuerySet()
    queries.add_example("thing", example)
    found = predictor.detect(target, queries, threshold=0.0)

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    inputs = processor(images=target, query_images=example, return_tensors="pt")
    outputs = model.image_guided_detection(**inputs)
    # OWLv2 pads at the bottom, OWL-ViT stretches; boxes wholly in the padding are not shown.
    frame = (size[1], size[1]) if model_type == "owlv2" else (size[1], size[0])
    boxes = cxcywh_to_xyxy(outputs.target_pred_boxes[0]) * torch.tensor(frame * 2)
    shown = boxes.numpy().clip(0, (size[1], size[0]) * 2)
    visible = (shown[:, :2] < shown[:, 2:]).all(axis=1)
    scores = outputs.logits[0, visible, 0].sigmoid().numpy()
    order = np.argsort(-scores)
    assert len(found) == len(scores) > 5
    np.testing.assert_allclose(found.scores, scores[order], atol=tolerance)
    best = order[0]
    np.testing.assert_allclose(found.boxes[0], shown[visible][best], atol=100 * tolerance)
