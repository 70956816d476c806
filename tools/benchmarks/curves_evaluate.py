"""COCO's metrics against the number of detections."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.curves import MOST_REPEATS, Curve, trace
from owlkit.evaluation import evaluate_boxes

DETECTIONS = (5_000, 10_000, 25_000, 50_000, 100_000, 200_000, 400_000)
IMAGES = 5_000
CLASSES = 80
OBJECTS = 36_000

_SIDE = 640


def detections(repeats: int, scratch: Path) -> Iterator[Curve]:
    """More and more of the boxes of one detector; half of them lie near an object."""
    del scratch
    truth, results = make_problem(OBJECTS, max(DETECTIONS))
    yield trace(
        {count: partial(evaluate_boxes, truth, results[:count]) for count in DETECTIONS},
        path="curve-detections",
        curve="evaluation against detections",
        settings=f"{IMAGES:,} images, {OBJECTS:,} objects, {CLASSES} classes, in memory",
        x_label="detections",
        repeats=min(repeats, MOST_REPEATS),
    )


def make_problem(objects: int, found: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """COCO's ground truth, and results of which every beginning is as good as the whole."""
    generator = np.random.default_rng(0)
    image = generator.integers(1, IMAGES + 1, size=objects)
    label = generator.integers(1, CLASSES + 1, size=objects)
    boxes = _random_boxes(objects, generator)
    answers = generator.integers(objects, size=found)
    near = boxes[answers] * generator.normal(1, 0.1, (found, 4))
    is_near = generator.random(found) < 0.5
    guesses = np.where(is_near[:, None], near, _random_boxes(found, generator))
    scores = generator.random(found) * np.where(is_near, 1, 0.6)
    truth = {
        "images": [{"id": number} for number in range(1, IMAGES + 1)],
        "categories": [{"id": number} for number in range(1, CLASSES + 1)],
        "annotations": [
            {"id": number, **record}
            for number, record in enumerate(_records(image, label, boxes), start=1)
        ],
    }
    records = _records(image[answers], label[answers], guesses)
    pairs = zip(records, scores.tolist(), strict=True)
    return truth, [record | {"score": score} for record, score in pairs]


def _random_boxes(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Xywh pixels [count, 4]."""
    sides = generator.uniform(8, _SIDE / 2, (count, 2))
    return np.column_stack([generator.random((count, 2)) * (_SIDE - sides), sides])


def _records(
    image: NDArray[np.int64], label: NDArray[np.int64], boxes: NDArray[np.float64]
) -> list[dict[str, Any]]:
    columns = (image.tolist(), label.tolist(), boxes.tolist())
    return [
        {"image_id": where, "category_id": what, "bbox": box}
        for where, what, box in zip(*columns, strict=True)
    ]
