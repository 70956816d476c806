"""The predictor: encode once, query often, boxes in pixels of the original image."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Owlv2ForObjectDetection

from owlkit import OwlDetector, Predictor, QuerySet
from owlkit.encoders import VisionTower, create_text_tower
from owlkit.errors import ConfigError, ImageError, QueryError, TokenError
from owlkit.geometry import owlv2_preprocessing
from owlkit.images import load_image
from owlkit.models.convention import resolve_convention
from owlkit.ops import cxcywh_to_xyxy, nms
from owlkit.scene import Scene
from owlkit.torch_backend import TorchBackend
from tests.counting import CountingBackend

NAMES = ["a cat", "a remote control", "a red mug"]


@pytest.fixture
def backend(owlv2_folder: Path) -> CountingBackend:
    return CountingBackend(OwlDetector.from_pretrained(owlv2_folder), device="cpu")


@pytest.fixture
def predictor(backend: CountingBackend) -> Predictor:
    return Predictor(backend, batch_size=2)


@pytest.fixture
def image() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (48, 90, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((180, 96))


def visible(scene: Scene) -> np.ndarray:
    """Which patches' boxes do not lie wholly in the padding [P]."""
    height, width = scene.transform.image_size
    clipped = scene.boxes.clip(0, [width, height] * 2)
    return (clipped[:, 2:] > clipped[:, :2]).all(axis=1)


@torch.no_grad()
def test_detections_are_what_the_detector_says(
    predictor: Predictor, backend: CountingBackend, image: Image.Image
) -> None:
    """The slow, obvious way: preprocess, score, sigmoid, loop, un-pad, clip, torchvision's NMS."""
    detector = backend.detector
    pixels, _ = detector.preprocessing(np.asarray(image))
    features = detector.encode_images(torch.from_numpy(pixels)[None])
    scores = detector.score(features, detector.encode_strings(NAMES))[0].sigmoid()
    longest = max(image.size)
    boxes = (cxcywh_to_xyxy(features.boxes[0]) * longest).clamp(min=0)
    boxes[:, 0::2].clamp_(max=image.width)
    boxes[:, 1::2].clamp_(max=image.height)
    visible = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    rows = [
        (s, p, q)
        for p, row in enumerate(scores.tolist())
        for q, s in enumerate(row)
        if s > 0.3 and visible[p]
    ]
    rows.sort(key=lambda row: -row[0])
    chosen = boxes[[p for _, p, _ in rows]]
    ranking = torch.tensor([s for s, _, _ in rows])
    kept = nms(chosen, ranking, 0.5)  # a patch has one box for all queries: most go

    found = predictor.detect(image, NAMES, threshold=0.3, nms_iou=0.5, class_agnostic=True)
    assert 0 < len(found) < len(rows)
    np.testing.assert_allclose(found.boxes, chosen[kept], atol=1e-3)
    np.testing.assert_allclose(found.scores, ranking[kept], atol=1e-6)
    assert found.names == tuple(NAMES[rows[int(i)][2]] for i in kept)
    assert found.image_size == (96, 180)


def test_a_scene_costs_no_second_image_pass(
    predictor: Predictor, backend: CountingBackend, image: Image.Image
) -> None:
    scene = predictor.encode(image)
    first = predictor.detect(scene, NAMES, threshold=0.3)
    assert backend.images == 1
    predictor.detect(scene, NAMES, threshold=0.6, nms_iou=0.3)
    predictor.detect(scene, ["something else"])
    assert backend.images == 1
    assert predictor.detect(image, NAMES, threshold=0.3) == first
    assert backend.images == 2


def test_each_text_is_encoded_once(
    predictor: Predictor, backend: CountingBackend, image: Image.Image
) -> None:
    scene = predictor.encode(image)
    predictor.detect(scene, ["cat", "dog", "cat"])
    predictor.detect(scene, ["dog", "owl"])
    assert backend.texts == ["cat", "dog", "owl"]


def test_lists_give_lists_whatever_the_batch(
    predictor: Predictor, backend: CountingBackend, image: Image.Image
) -> None:
    other = image.rotate(90, expand=True)
    scene = predictor.encode(other)
    found = predictor.detect([image, scene, other, image], NAMES, threshold=0.3)
    assert [one.image_size for one in found] == [(96, 180), (180, 96), (180, 96), (96, 180)]
    assert backend.images == 4
    alone = predictor.detect(image, NAMES, threshold=0.3)
    for one in (found[0], found[3]):
        np.testing.assert_allclose(one.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(one.scores, alone.scores, atol=1e-5)
    assert predictor.detect([], NAMES) == []
    assert predictor.encode([]) == []


@pytest.mark.filterwarnings("ignore:.*is cut to the limit")  # the small tokenizer knows few words
@pytest.mark.parametrize("templates", ["ensemble7", ["a {}", "one {} in the snow"]])
def test_ensembles_average_logits_or_directions(
    predictor: Predictor, backend: CountingBackend, image: Image.Image, templates: Any
) -> None:
    scene = predictor.encode(image)
    names = ["cat", "dog"]
    queries = QuerySet.from_text(names, templates=templates)
    units = np.stack(
        [backend.encode_texts(prompts) for prompts in (one.prompts for one in queries.classes)]
    )
    each = np.stack([backend.score(scene.features, units[i]) for i in range(2)], axis=1)
    by_logits = 1 / (1 + np.exp(-each.mean(axis=-1)))[visible(scene)]  # [V, 2]
    found = predictor.detect(scene, queries, threshold=0.0)
    np.testing.assert_allclose(found.scores, np.sort(by_logits.ravel())[::-1], atol=1e-5)

    mean = units.mean(axis=1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    direction = 1 / (1 + np.exp(-backend.score(scene.features, mean)))[visible(scene)]
    found = predictor.detect(
        scene, names, templates=templates, ensemble="embeddings", threshold=0.0
    )
    np.testing.assert_allclose(found.scores, np.sort(direction.ravel())[::-1], atol=1e-5)
    assert not np.allclose(by_logits, direction, atol=1e-4)


def test_thresholds_per_query(predictor: Predictor, image: Image.Image) -> None:
    scene = predictor.encode(image)
    found = predictor.detect(scene, NAMES, threshold=[1.0, 0.0, 0.5])
    assert not (found.labels == 0).any()
    assert (found.labels == 1).sum() == visible(scene).sum() > 0
    assert (found.scores[found.labels == 2] > 0.5).all()


def test_half_precision_moves_boxes_by_less_than_a_hundredth(
    owlv2_folder: Path, image: Image.Image
) -> None:
    full = Predictor.from_pretrained(owlv2_folder, device="cpu").encode(image)
    half = Predictor.from_pretrained(owlv2_folder, device="cpu", precision="bfloat16").encode(image)
    assert np.abs(full.boxes - half.boxes).max() < 0.01 * max(image.size)


@torch.no_grad()
def test_attention_is_transformers_own(
    predictor: Predictor, image: Image.Image, owlv2_folder: Path, tmp_path: Path
) -> None:
    """Of a path, an array and a PIL image, alone and in a list."""
    image.save(tmp_path / "image.png")
    pixels, transform = predictor.backend.preprocessing(np.asarray(image))
    theirs = Owlv2ForObjectDetection.from_pretrained(owlv2_folder, attn_implementation="eager")
    outputs = theirs.owlv2.vision_model(
        pixel_values=torch.from_numpy(pixels)[None], output_attentions=True
    )
    expected = outputs.attentions[-1][0, :, 0, 1:].reshape(4, 4, 4)  # the class token's row
    assert expected.max() > 2 / 17, "more than if all tokens were alike"
    found = predictor.attention([tmp_path / "image.png", np.asarray(image), image])
    for maps in (*found, predictor.attention(image)):
        assert maps.transform == transform
        np.testing.assert_allclose(maps.heads, expected, atol=1e-6)
    assert found[0].on_image().shape == (96, 180)
    assert predictor.attention([]) == []


def test_what_has_no_attention_says_so(image: Image.Image) -> None:
    tower = VisionTower("resnet18", image_size=64)
    text = create_text_tower(
        width=32, depth=1, heads=2, vocab_size=300, context_length=16, embed_width=32
    )
    detector = OwlDetector(
        tower, text, preprocessing=owlv2_preprocessing(64), convention=resolve_convention("hf")
    )
    with pytest.raises(TokenError, match="attention maps need a vision transformer"):
        Predictor(TorchBackend(detector, device="cpu")).attention(image)


def test_plot_draws_on_the_image_it_came_from(predictor: Predictor, image: Image.Image) -> None:
    picture = predictor.detect(image, NAMES, threshold=0.3).plot()
    assert picture.size == image.size
    assert np.any(np.asarray(picture) != np.asarray(image))


def test_all_photographs(predictor: Predictor, data_dir: Path) -> None:
    """Every photograph: no exception, boxes inside the image."""
    photographs = [p for p in sorted(data_dir.rglob("*")) if p.suffix in (".jpg", ".jpeg", ".png")]
    assert len(photographs) > 1500
    predictor.batch_size = 32
    for start in range(0, len(photographs), 256):
        found = predictor.detect([*photographs[start : start + 256]], NAMES, threshold=0.4)
        for path, detections in zip(photographs[start : start + 256], found, strict=True):
            with Image.open(path) as picture:
                width, height = picture.size
            assert detections.image_size == (height, width)
            assert (detections.boxes >= 0).all()
            assert (detections.boxes[:, 0::2] <= width).all()
            assert (detections.boxes[:, 1::2] <= height).all()


def test_misuse_is_explained(predictor: Predictor, image: Image.Image, owlv2_folder: Path) -> None:
    with pytest.raises(QueryError, match="at least one query"):
        predictor.detect(image, [])
    with pytest.raises(QueryError, match="already has its prompts"):
        predictor.detect(image, QuerySet.from_text(["cat"]), templates="ensemble7")
    for templates in (3, [["a {}"]]):
        with pytest.raises(QueryError, match="templates"):
            predictor.detect(image, ["cat"], templates=templates)  # type: ignore[arg-type]
    with pytest.raises(QueryError, match=r"\[0, 1\]"):
        predictor.detect(image, NAMES, threshold=1.5)
    with pytest.raises(ImageError, match=r"no\.jpg"):
        predictor.detect(["no.jpg"], NAMES)
    with pytest.raises(ConfigError, match="bfloat16"):
        Predictor.from_pretrained(owlv2_folder, precision="half")


def test_images_are_read_as_load_image_reads_them(
    predictor: Predictor, image: Image.Image, tmp_path: Path
) -> None:
    image.save(tmp_path / "image.png")
    from_array = predictor.detect(np.asarray(image), NAMES, threshold=0.3)
    from_path = predictor.detect(tmp_path / "image.png", NAMES, threshold=0.3)
    assert from_array == from_path
    assert np.array_equal(load_image(tmp_path / "image.png"), np.asarray(image))


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, None])
def test_a_batch_size_must_be_positive(backend: CountingBackend, batch_size: Any) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Predictor(backend, batch_size=batch_size)


def test_a_device_that_is_not_there_is_named(owlv2_folder: Path) -> None:
    with pytest.raises(ConfigError, match="found 'banana'"):
        Predictor.from_pretrained(owlv2_folder, device="banana")


def test_a_kept_scene_does_not_keep_its_batch(predictor: Predictor, image: Image.Image) -> None:
    for scene in (predictor.encode([image] * 2)[1], predictor.encode(image)):
        embeds = scene.features.class_embeds
        assert embeds.untyped_storage().nbytes() == embeds.numel() * embeds.element_size()


def test_threads_share_a_predictor(predictor: Predictor, image: Image.Image) -> None:
    """With a text cache so small that it forgets all the time."""
    scene = predictor.encode(image)
    words = [f"{noun} {number}" for noun in ("cat", "dog", "owl") for number in range(8)]
    expected = {word: predictor.detect(scene, [word], threshold=0.0).scores for word in words}

    def ask(word: str) -> bool:
        found = predictor.detect(scene, [word, "tree"], threshold=0.0)
        return bool(np.allclose(found.scores[found.labels == 0], expected[word], atol=1e-6))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("owlkit.queries.encoder.REMEMBERED_TEXTS", 3)
        patch.setattr("owlkit.queries.encoder.REMEMBERED_SETS", 2)
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(ask, words * 4))
