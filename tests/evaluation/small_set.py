"""A few pictures with boxes, as records and as a COCO file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from owlkit.data.coco import ImageRecord

NAMES = ("cat", "red mug", "owl")
CATEGORY_IDS = (3, 7, 20)


def make_records(folder: Path, count: int = 5) -> list[ImageRecord]:
    """Blobs of colour of different sizes; image i has i boxes."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(count):
        generator = np.random.default_rng(number)
        width, height = 60 + 20 * number, 90 - 7 * number
        blobs = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(blobs).resize((width, height)).save(path)
        corners = np.sort(generator.random((number, 2, 2)), axis=1).reshape(-1, 4)
        records.append(
            ImageRecord(
                id=100 + number,
                path=path,
                width=width,
                height=height,
                boxes=(corners * [width, height, width, height]).astype(np.float32),
                labels=np.arange(number) % len(NAMES),
                absent=(),
                unknown=(),
            )
        )
    return records


def coco_content(records: list[ImageRecord]) -> dict[str, Any]:
    annotations = []
    for record in records:
        for (x0, y0, x1, y1), label in zip(
            record.boxes.tolist(), record.labels.tolist(), strict=True
        ):
            box = [x0, y0, x1 - x0, y1 - y0]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record.id,
                    "category_id": CATEGORY_IDS[label],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return {
        "images": [
            {"id": r.id, "file_name": r.path.name, "width": r.width, "height": r.height}
            for r in records
        ],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name} for number, name in zip(CATEGORY_IDS, NAMES, strict=True)
        ],
    }


def write_coco(path: Path, records: list[ImageRecord]) -> Path:
    path.write_text(json.dumps(coco_content(records)))
    return path


def perfect_results(content: dict[str, Any]) -> list[dict[str, Any]]:
    keys = ("image_id", "category_id", "bbox")
    return [{key: entry[key] for key in keys} | {"score": 0.9} for entry in content["annotations"]]
