"""COCO's box metrics on a problem of the size of its validation set."""

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import faster_coco_eval
import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
from numpy.typing import NDArray

from benchmarks.comparison import Row, compare
from owlkit.evaluation import evaluate_boxes

IMAGES = 5_000
CLASSES = 80
OBJECTS = 36_000
DETECTIONS = 200_000
WIDTH, HEIGHT = 640, 480
EXACT = 1e-9


def evaluate(repeats: int, scratch: Path) -> Iterator[Row]:
    """5,000 images and 200,000 detections, from files to COCO's twelve numbers."""
    truth, results = scratch / "truth.json", scratch / "results.json"
    _write_problem(truth, results)
    plain = (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval)
    faster = (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster)
    peers = {
        "evaluate": ("pycocotools", plain),
        "evaluate-faster": ("faster-coco-eval", faster),
    }
    ours = evaluate_boxes(truth, results)
    for path, (name, classes) in peers.items():
        evaluate_peer = _peer(truth, results, *classes)
        _check_equal(ours, evaluate_peer(), name)
        yield compare(
            lambda: evaluate_boxes(truth, results),
            evaluate_peer,
            path=path,
            peer=name,
            settings=f"{IMAGES:,} images, {DETECTIONS:,} detections, JSON files to 12 numbers",
            repeats=repeats,
            warm_up=False,
        )


def _peer(
    truth: Path, results: Path, coco: Callable[..., Any], coco_eval: Callable[..., Any]
) -> Callable[[], list[float]]:
    def evaluate_peer() -> list[float]:
        with contextlib.redirect_stdout(io.StringIO()):
            ground_truth = coco(str(truth))
            evaluation = coco_eval(ground_truth, ground_truth.loadRes(str(results)), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return [float(number) for number in evaluation.stats[:12]]

    return evaluate_peer


def _check_equal(ours: Mapping[str, float], theirs: list[float], name: str) -> None:
    for (metric, our), their in zip(ours.items(), theirs, strict=True):
        if abs(our - their) > EXACT:
            raise RuntimeError(f"{metric}: owlkit finds {our!r}, {name} {their!r}")


def _write_problem(truth: Path, results: Path) -> None:
    """Objects in pictures, and boxes of a middling detector: near an object, or anywhere."""
    generator = np.random.default_rng(0)
    image = generator.integers(IMAGES, size=OBJECTS)
    # A few classes are frequent, as in COCO.
    frequency = 1 / np.arange(1, CLASSES + 1)
    label = generator.choice(CLASSES, OBJECTS, p=frequency / frequency.sum())
    boxes = _random_boxes(OBJECTS, generator)
    found = generator.integers(OBJECTS, size=DETECTIONS)
    blur = generator.exponential(0.15, DETECTIONS)
    near = boxes[found] + generator.normal(size=(DETECTIONS, 4)) * blur[:, None] * np.tile(
        boxes[found][:, 2:], 2
    )
    is_near = generator.random(DETECTIONS) < 0.5
    guesses = np.where(is_near[:, None], near, _random_boxes(DETECTIONS, generator))
    guesses[:, 2:] = np.maximum(guesses[:, 2:], 1)
    is_confused = generator.random(DETECTIONS) < 0.2
    guessed = np.where(is_confused, generator.integers(CLASSES, size=DETECTIONS), label[found])
    score = generator.random(DETECTIONS) * np.where(is_near, np.exp(-blur), 0.6)
    truth.write_text(
        json.dumps(
            {
                "images": [
                    {"id": index + 1, "width": WIDTH, "height": HEIGHT, "file_name": f"{index}.jpg"}
                    for index in range(IMAGES)
                ],
                "categories": [{"id": index + 1, "name": str(index)} for index in range(CLASSES)],
                "annotations": [
                    record | {"id": index + 1, "area": record["bbox"][2] * record["bbox"][3]}
                    for index, record in enumerate(
                        _records(image, label, boxes, iscrowd=generator.random(OBJECTS) < 0.01)
                    )
                ],
            }
        )
    )
    results.write_text(json.dumps(list(_records(image[found], guessed, guesses, score=score))))


def _random_boxes(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Xywh pixels, half of them small [count, 4]."""
    sides = np.exp(generator.uniform(np.log(8), np.log(400), (count, 2)))
    corners = generator.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sides).clip(1)
    return np.column_stack([corners, sides]).round(2)


def _records(
    image: NDArray[np.int64],
    label: NDArray[np.int64],
    boxes: NDArray[np.float64],
    **more: NDArray[Any],
) -> Iterator[dict[str, Any]]:
    columns = [(image + 1).tolist(), (label + 1).tolist(), boxes.round(2).tolist()]
    columns += [
        (values * 1 if values.dtype == bool else values).tolist() for values in more.values()
    ]
    for row in zip(*columns, strict=True):
        yield dict(zip(("image_id", "category_id", "bbox", *more), row, strict=True))
