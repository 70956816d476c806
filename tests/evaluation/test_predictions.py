"""A detector on a data set, against the predictor on one image after the other."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from owlkit import OwlDetector, Predictor, QuerySet
from owlkit.data.coco import ImageRecord
from owlkit.errors import DatasetError
from owlkit.evaluation.best import BestOfClasses
from owlkit.evaluation.predictions import (
    Predictions,
    PredictionSettings,
    detect_images,
    embed_classes,
    predict_results,
)
from owlkit.postprocess import box_iou
from tests.evaluation.small_set import CATEGORY_IDS, NAMES, make_records

# The small tokenizer spells most words, so the longest templates lose their ends.
pytestmark = pytest.mark.filterwarnings("ignore:.*is cut to the limit")


@pytest.fixture(scope="module")
def detector(owlv2_folder: Path) -> OwlDetector:
    return OwlDetector.from_pretrained(owlv2_folder).eval()


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    return make_records(tmp_path)


@pytest.mark.parametrize("templates", ["none", "ensemble7"])
@pytest.mark.parametrize(("nms_iou", "threshold"), [(None, 0.0), (0.3, 0.001)])
def test_the_predictor_finds_the_same(
    detector: OwlDetector,
    records: list[ImageRecord],
    owlv2_folder: Path,
    templates: str,
    nms_iou: float | None,
    threshold: float,
) -> None:
    predictor = Predictor.from_pretrained(owlv2_folder, device="cpu")
    settings = PredictionSettings(templates=templates, top_k=20, nms_iou=nms_iou, batch_size=2)
    found = list(detect_images(detector, records, NAMES, settings=settings))
    assert [record for record, _ in found] == records
    for record, detections in found:
        expected = predictor.detect(
            str(record.path),
            QuerySet.from_text(NAMES, templates=templates),
            threshold=threshold,
            nms_iou=nms_iou,
            top_k=20,
        )
        assert detections.image_size == (record.height, record.width)
        np.testing.assert_array_equal(detections.labels, expected.labels)
        assert detections.names == expected.names
        np.testing.assert_allclose(detections.scores, expected.scores, rtol=1e-5)
        np.testing.assert_allclose(detections.boxes, expected.boxes, atol=1e-3)
        assert len(detections) == 20 or nms_iou


def test_boxes_of_one_class_do_not_overlap_after_suppression(
    detector: OwlDetector, records: list[ImageRecord]
) -> None:
    settings = PredictionSettings(templates="none", nms_iou=0.2)
    for _, found in detect_images(detector, records, NAMES, settings=settings):
        assert len(found) < 16 * len(NAMES)
        for label in range(len(NAMES)):
            boxes = found.boxes[found.labels == label]
            overlaps = box_iou(boxes, boxes) - np.eye(len(boxes))
            assert overlaps.max(initial=0) <= 0.2 + 1e-6


def test_results_are_in_the_order_of_the_images_whatever_the_batch(
    detector: OwlDetector, records: list[ImageRecord]
) -> None:
    seen = []
    several = [
        predict_results(
            detector,
            records,
            NAMES,
            CATEGORY_IDS,
            settings=PredictionSettings(templates="none", top_k=10, batch_size=batch_size),
            on_image=lambda: seen.append(1),
        ).results
        for batch_size in (1, 3, 8)
    ]
    assert len(seen) == 3 * len(records)
    for results in several:
        assert [result["image_id"] for result in results] == np.repeat(
            [record.id for record in records], 10
        ).tolist()
        assert {result["category_id"] for result in results} <= set(CATEGORY_IDS)
        for one, next_one in pairwise(results):
            assert one["image_id"] != next_one["image_id"] or one["score"] >= next_one["score"]
    for results in several[1:]:
        for found, expected in zip(results, several[0], strict=True):
            assert found["category_id"] == expected["category_id"]
            assert found["score"] == pytest.approx(expected["score"], rel=1e-5)
            assert found["bbox"] == pytest.approx(expected["bbox"], abs=1e-3)


def test_names_are_asked_for_as_they_were_learned(detector: OwlDetector) -> None:
    """In lower case without punctuation, unless the model knows other languages."""
    asked, plain = (
        embed_classes(detector, names, PredictionSettings())
        for names in (["Red_Mug (small)", "CAT"], ["red mug small", "cat"])
    )
    assert torch.equal(asked, plain)
    as_written = PredictionSettings(templates="none", canonicalize=False)
    assert not torch.equal(
        embed_classes(detector, ["cat!"], as_written), embed_classes(detector, ["cat"], as_written)
    )


def test_processes_share_the_images_and_the_first_gets_the_whole(
    detector: OwlDetector, records: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes one after the other: what the second one sends reaches the first one."""
    settings = PredictionSettings(templates="none", top_k=4, batch_size=1)
    records[2].path.write_bytes(b"no picture")

    def predict() -> Predictions:
        return predict_results(detector, records, NAMES, CATEGORY_IDS, settings=settings)

    alone = predict()
    lost: dict[int, Any] = {}
    sent: dict[int, Any] = {}
    rank = 1

    def all_gather_object(parts: list[Any], mine: Any) -> None:
        lost[rank] = mine
        parts[:] = [lost.get(number, [str(records[2].path)]) for number in range(2)]

    def gather_object(mine: Any, parts: list[Any] | None) -> None:
        sent[rank] = mine
        assert (parts is None) == (rank > 0)
        if parts is not None:
            parts[:] = [sent[number] for number in range(2)]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather_object)
    monkeypatch.setattr(torch.distributed, "gather_object", gather_object)
    assert predict() == Predictions([], (str(records[2].path),))
    rank = 0
    assert predict() == alone
    assert [len(sent[number]) for number in range(2)] == [3, 2]


def test_an_image_that_cannot_be_read_is_counted(
    detector: OwlDetector, records: list[ImageRecord], caplog: pytest.LogCaptureFixture
) -> None:
    """A header that says all is well is no promise; hours of work are not thrown away for it."""
    settings = PredictionSettings(templates="none", top_k=5, batch_size=1)

    def predict() -> Predictions:
        return predict_results(detector, records, NAMES, CATEGORY_IDS, settings=settings)

    whole = predict()
    assert whole.unreadable == ()
    data = records[3].path.read_bytes()
    records[3].path.write_bytes(data[: len(data) // 2])
    found = predict()
    assert found.unreadable == (str(records[3].path),)
    assert found.results == [entry for entry in whole.results if entry["image_id"] != 103]
    assert "3.png" in caplog.text
    assert [
        record.id for record, _ in detect_images(detector, records, NAMES, settings=settings)
    ] == [100, 101, 102, 104]
    records[1].path.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"at most 1% .* 2 of 5 cannot, among them .*1\.png"):
        predict()


def test_one_per_cent_may_be_unreadable(
    detector: OwlDetector, tmp_path: Path, records: list[ImageRecord]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    settings = PredictionSettings(templates="none", top_k=1, batch_size=50)
    images = [replace(records[0], id=number) for number in range(200)]
    for number in (0, 7):
        images[number] = replace(images[number], path=bad)
    found = predict_results(detector, images, NAMES, CATEGORY_IDS, settings=settings)
    assert found.unreadable == (str(bad), str(bad))
    assert len(found.results) == 198


@pytest.mark.parametrize("nms_iou", [None, 0.4])
def test_the_best_of_each_class_over_all_images(
    detector: OwlDetector,
    records: list[ImageRecord],
    monkeypatch: pytest.MonkeyPatch,
    nms_iou: float | None,
) -> None:
    """As if everything had been kept and sorted in the end."""
    monkeypatch.setattr("owlkit.evaluation.predictions.BestOfClasses", eager_best)
    settings = PredictionSettings(templates="none", top_k=None, nms_iou=nms_iou, batch_size=1)
    everything = predict_results(detector, records, NAMES, CATEGORY_IDS, settings=settings).results
    if nms_iou is None:
        counts = Counter((entry["image_id"], entry["category_id"]) for entry in everything)
        assert len(counts) == len(records) * len(NAMES)
        for record in records:
            # Of each class all boxes but those in the padding: no limit per image.
            assert len({counts[record.id, category] for category in CATEGORY_IDS}) == 1
    limited = replace(settings, per_class=7)
    found = predict_results(detector, records, NAMES, CATEGORY_IDS, settings=limited).results
    best: list[dict[str, Any]] = []
    for category in CATEGORY_IDS:
        mine = [entry for entry in everything if entry["category_id"] == category]
        best += sorted(mine, key=lambda entry: -entry["score"])[:7]
    assert [entry for entry in everything if entry in best] == found
    assert len(found) == 21


def eager_best(thresholds: Any, limit: int) -> BestOfClasses:
    """Drops after every image."""
    return BestOfClasses(thresholds, limit, room=0)


def test_a_mark_asks_for_the_bare_name(detector: OwlDetector) -> None:
    """As in training."""
    settings = PredictionSettings(templates="ensemble7")
    bare = embed_classes(detector, ["owl"], PredictionSettings(templates="none"))
    assert torch.allclose(embed_classes(detector, ["#Owl"], settings), bare, atol=1e-6)
    assert not torch.allclose(embed_classes(detector, ["owl"], settings), bare, atol=1e-3)
    with pytest.raises(DatasetError, match=r"canonicalize.*class 1 '猫'"):
        embed_classes(detector, ["owl", "猫"], settings)


def test_nothing_to_look_at(detector: OwlDetector) -> None:
    nothing = predict_results(detector, [], NAMES, CATEGORY_IDS, settings=PredictionSettings())
    assert nothing == Predictions([], ())
