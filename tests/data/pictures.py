"""Small data sets on disk whose pictures show what their boxes say."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from owlkit.data.augmentation import Augmentation
from owlkit.data.coco import DetectionDataset, ImageRecord
from owlkit.data.dataset_report import DatasetReport
from owlkit.data.examples import DetectionExamples, TrainingSource
from owlkit.data.queries import QuerySampler, name_counts

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}

AS_IT_IS = Augmentation(flip=0.0, crop=False)


def make_dataset(
    folder: Path,
    labels: Sequence[Sequence[int]],
    *,
    names: Sequence[str] = tuple(COLOURS),
    boxes: Sequence[Sequence[Sequence[float]]] | None = None,
    absent: Sequence[Sequence[int]] | None = None,
    unknown: Sequence[Sequence[int]] | None = None,
    size: tuple[int, int] = (40, 24),
    suffix: str = "png",
    exhaustive: bool = True,
) -> DetectionDataset:
    """Black pictures, `size` wide and high, with a filled rectangle in its class's colour per box.

    Without ``boxes``, those of a picture stand side by side.
    """
    folder.mkdir(exist_ok=True)
    width, height = size
    records = []
    for index, row in enumerate(labels):
        if boxes is None:
            steps = np.linspace(0, width, len(row) + 1).round()
            corners = [
                (x0, height // 4, x1, height)
                for x0, x1 in zip(steps[:-1] + 1, steps[1:], strict=True)
            ]
        else:
            corners = [tuple(box) for box in boxes[index]]
        image = np.zeros((height, width, 3), np.uint8)
        for box, label in zip(corners, row, strict=True):
            x0, y0, x1, y1 = (int(value) for value in box)
            image[y0:y1, x0:x1] = list(COLOURS.values())[label % 3]
        path = folder / f"{index:03d}.{suffix}"
        cv2.imwrite(str(path), image[..., ::-1])
        records.append(
            ImageRecord(
                id=100 + index,
                path=path,
                width=width,
                height=height,
                boxes=np.array(corners, np.float32).reshape(-1, 4),
                labels=np.array(row, np.int64),
                absent=tuple(absent[index]) if absent else (),
                unknown=tuple(unknown[index]) if unknown else (),
            )
        )
    return DetectionDataset(
        names=tuple(names),
        category_ids=tuple(range(1, len(names) + 1)),
        frequencies=(None,) * len(names),
        images=tuple(records),
        exhaustive=exhaustive,
        report=DatasetReport("", len(records), 0, {}, {}),
    )


def make_source(dataset: DetectionDataset, *, weight: float = 1.0, **options) -> TrainingSource:
    """A source that asks for bare names, if not told otherwise."""
    options = {"templates": "none", **options}
    queries = QuerySampler(
        dataset.names, name_counts(dataset), exhaustive=dataset.exhaustive, **options
    )
    return TrainingSource(dataset, queries, weight)


def make_examples(*datasets: DetectionDataset, **options) -> DetectionExamples:
    """Examples of data sets of equal weight, as they are, 48 pixels wide."""
    options = {"augmentation": AS_IT_IS, "size": 48, **options}
    return DetectionExamples([make_source(dataset) for dataset in datasets], **options)
