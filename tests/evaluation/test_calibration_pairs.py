"""Which detections are right: against a walk through each image and class."""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from owlkit import QuerySet
from owlkit.calibration import Calibration
from owlkit.data.coco import ImageRecord
from owlkit.detections import Detections
from owlkit.errors import ConfigError, DatasetError, QueryError
from owlkit.evaluation.calibration_pairs import (
    LOWEST_SCORE,
    CalibrationPairs,
    collect_pairs,
    half_of,
    probe_queries,
)
from owlkit.evaluation.truth import Truth, read_truth
from owlkit.suppression import box_iou
from tests.evaluation.small_set import CATEGORY_IDS, NAMES, coco_content, make_records

# Asked in another order than the file's, and with a class that the file does not have.
ASKED = ("owl", "dragon", "cat", "red mug")


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    return make_records(tmp_path / "images", count=7)


def write(tmp_path: Path, content: dict[str, Any]) -> Truth:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    return read_truth(path)


def guesses(records: list[ImageRecord]) -> dict[tuple[int, int], Detections]:
    """Shaken objects and random boxes, some with equal scores, for images by their size."""
    generator = np.random.default_rng(1)
    found = {}
    for record in records:
        size = np.array([record.width, record.height] * 2)
        near = np.repeat(record.boxes, 3, axis=0)
        near = near + generator.normal(0, 0.04, near.shape) * size
        wild = np.sort(generator.random((4, 2, 2)), axis=1).reshape(-1, 4) * size
        boxes = np.clip(np.concatenate([near, wild]), 0, size)
        boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), boxes[:, 2:]], axis=1)
        labels = [ASKED.index(NAMES[label]) for label in np.repeat(record.labels, 3)]
        labels += [0, 1, 2, 3]
        scores = generator.uniform(0.1, 0.9, len(boxes)).round(1).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        found[record.height, record.width] = Detections(
            boxes=boxes[order],
            scores=scores[order],
            labels=np.array(labels)[order],
            names=tuple(ASKED[label] for label in np.array(labels)[order]),
        )
    return found


def detector(
    found: dict[tuple[int, int], Detections],
) -> Callable[[list[NDArray[np.uint8]]], list[Detections]]:
    def detect(images: list[NDArray[np.uint8]]) -> list[Detections]:
        shapes = [image.shape for image in images]
        return [found[height, width] for height, width, _ in shapes]

    return detect


def slow_pairs(
    content: dict[str, Any], found: dict[int, Detections], iou: float, *, lvis: bool = False
) -> set[tuple[int, str, float, bool]]:
    """Image, class, score and verdict; shaken boxes make the same overlap twice impossible."""
    names = dict(zip(CATEGORY_IDS, NAMES, strict=True))
    objects = defaultdict(list)
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        box = [x, y, x + width, y + height]
        objects[entry["image_id"], names[entry["category_id"]]].append((box, entry["iscrowd"]))
    images = {image["id"]: image for image in content["images"]}
    pairs = set()
    for image, detections in found.items():
        free = {key: list(range(len(boxes))) for key, boxes in objects.items()}
        for box, score, name in zip(
            detections.boxes, detections.scores, detections.names, strict=True
        ):
            if name not in NAMES:
                continue
            number = CATEGORY_IDS[NAMES.index(name)]
            here = objects[image, name]
            overlaps = {
                row: float(box_iou(box[None], np.array([here[row][0]], np.float32))[0, 0])
                for row in free.get((image, name), [])
                if not here[row][1]
            }
            best = max(overlaps, key=lambda row: overlaps[row], default=None)
            right = best is not None and overlaps[best] >= iou
            if right:
                free[image, name].remove(best)
            elif any(crowd and covered(box, other) >= iou for other, crowd in here):
                continue
            if lvis:
                looked_for = bool(here) or number in images[image]["neg_category_ids"]
                partly = number in images[image]["not_exhaustive_category_ids"]
                if not looked_for or (partly and not right):
                    continue
            pairs.add((image, name, round(float(score), 4), right))
    return pairs


def covered(box: NDArray[np.float32], crowd: list[float]) -> float:
    sides = np.minimum(box[2:], crowd[2:]) - np.maximum(box[:2], crowd[:2])
    area = np.prod(box[2:] - box[:2])
    return float(np.prod(np.maximum(sides, 0)) / area) if area else 0.0


def as_set(pairs: CalibrationPairs) -> set[tuple[int, str, float, bool]]:
    # What was detected with are a quarter of the logits.
    scores = 1 / (1 + np.exp(-pairs.logits / 4))
    return {
        (int(image), pairs.names[label], round(float(score), 4), bool(right))
        for image, label, score, right in zip(
            pairs.image_ids, pairs.labels, scores, pairs.is_true, strict=True
        )
    }


def by_id(
    records: list[ImageRecord], found: dict[tuple[int, int], Detections]
) -> dict[int, Detections]:
    return {record.id: found[record.height, record.width] for record in records}


@pytest.mark.parametrize("iou", [0.5, 0.75])
def test_right_and_wrong_as_coco_tells_them(
    records: list[ImageRecord], tmp_path: Path, iou: float
) -> None:
    content = coco_content(records)
    for entry in content["annotations"][::5]:
        entry["iscrowd"] = 1
    found = guesses(records)
    truth = write(tmp_path, content)
    # The records' order is another than that of their ids.
    shuffled = [records[index] for index in (4, 0, 6, 2, 5, 1, 3)]
    pairs = collect_pairs(detector(found), shuffled, truth, ASKED, iou=iou, batch_size=3)
    expected = slow_pairs(content, by_id(records, found), iou)
    assert as_set(pairs) == expected
    assert {right for *_, right in expected} == {True, False}
    crowds = [entry for entry in content["annotations"] if entry["iscrowd"]]
    assert len(pairs.object_labels) == len(content["annotations"]) - len(crowds)
    counts = dict(zip(ASKED, pairs.object_counts().tolist(), strict=True))
    for name, number in zip(NAMES, CATEGORY_IDS, strict=True):
        mine = [e for e in content["annotations"] if e["category_id"] == number]
        assert counts[name] == sum(not entry["iscrowd"] for entry in mine)
    assert counts["dragon"] == 0

    part = pairs.among([101, 104, 104])
    assert as_set(part) == {pair for pair in expected if pair[0] in (101, 104)}
    assert set(part.object_image_ids.tolist()) <= {101, 104}


def test_what_nobody_looked_for_is_neither(records: list[ImageRecord], tmp_path: Path) -> None:
    content = coco_content(records)
    for index, image in enumerate(content["images"]):
        image["neg_category_ids"] = [20] if index % 2 else []
        image["not_exhaustive_category_ids"] = [3] if index > 2 else []
    found = guesses(records)
    crowded = {**content, "annotations": [{**e, "iscrowd": 1} for e in content["annotations"]]}
    # LVIS has no crowds, whatever the file says.
    truth = write(tmp_path, crowded)
    pairs = collect_pairs(detector(found), records, truth, ASKED)
    expected = slow_pairs(content, by_id(records, found), 0.5, lvis=True)
    assert as_set(pairs) == expected
    assert len(expected) < len(slow_pairs(content, by_id(records, found), 0.5))


def test_images_that_cannot_be_read(
    records: list[ImageRecord], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = write(tmp_path, coco_content(records))
    found, seen = guesses(records), []
    records[5].path.write_bytes(b"no picture")
    pairs = collect_pairs(
        detector(found), records, truth, ASKED, on_image=lambda: seen.append(1), batch_size=2
    )
    assert 105 not in pairs.image_ids
    assert 105 not in pairs.object_image_ids
    assert "cannot be read" in caplog.text
    assert len(seen) == 7
    with pytest.raises(DatasetError, match="found none of 1 that can be read"):
        collect_pairs(detector(found), [records[5]], truth, ASKED)


def test_mistakes(records: list[ImageRecord], tmp_path: Path) -> None:
    truth = write(tmp_path, coco_content(records))
    with pytest.raises(DatasetError, match="found dragon where those are cat, red mug, owl"):
        collect_pairs(detector({}), records, truth, ["dragon"])
    with pytest.raises(ConfigError, match=r"0\.5, 0\.55 \.\.\. 0\.95, found 0\.6789"):
        collect_pairs(detector({}), records, truth, ASKED, iou=0.6789)


def test_logits_are_read_off_scores(records: list[ImageRecord], tmp_path: Path) -> None:
    queries = QuerySet.from_text(["cat", "owl"])
    queries.update("owl", threshold=0.7, calibration=Calibration.linear(3.0, 1.0))
    probes, threshold = probe_queries(queries)
    assert queries["owl"].threshold == 0.7
    assert queries["owl"].calibration == Calibration.linear(3.0, 1.0)
    assert probes.names == queries.names
    assert {one.calibration for one in probes.classes} == {probes["cat"].calibration}
    calibration = probes["cat"].calibration
    assert calibration is not None
    logits = np.array([50, 30, 17, 5, 0, -3, -6], np.float32)
    lowest = np.log(LOWEST_SCORE / (1 - LOWEST_SCORE))
    assert calibration.probabilities(np.array([lowest])) == pytest.approx([threshold])
    scores = calibration.probabilities(logits)
    found = Detections(
        boxes=np.tile([0, 0, 5, 5], (7, 1)), scores=scores, labels=[0] * 7, names=["cat"] * 7
    )
    truth = write(tmp_path, coco_content(records))
    record = replace(records[2], id=102)
    pairs = collect_pairs(lambda images: [found], [record], truth, probes.names)
    np.testing.assert_allclose(np.sort(pairs.logits)[::-1], logits, atol=0.1)
    np.testing.assert_allclose(np.sort(pairs.logits)[4::-1], logits[2:], atol=1e-4)


def test_classes_must_differ_and_be_no_parts() -> None:
    queries = QuerySet.from_text(["face", "nose"])
    queries.update("nose", parent="face")
    with pytest.raises(QueryError, match="whole images, found 'nose', a part"):
        probe_queries(queries)
    with pytest.raises(QueryError, match="different names, found 'cat' 2 times"):
        probe_queries(QuerySet.from_text(["cat", "cat", "owl"]))


def test_halves_are_halves() -> None:
    halves = [half_of(image) for image in range(2000)]
    assert halves[:12] == [half_of(image) for image in range(12)]
    assert 900 < sum(halves) < 1100
    assert 400 < sum(halves[::2]) < 600, "even ids are on both sides"
