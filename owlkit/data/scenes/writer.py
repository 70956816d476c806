"""Writes scenes as an ordinary data set: JPEGs, COCO JSON, captions.

    OUT/train/000000.jpg ...              OUT/annotations/instances_train.json
    OUT/val/000000.jpg ...                OUT/annotations/instances_val.json
    OUT/captions_train.jsonl              OUT/annotations/split.json
    OUT/captions_val.jsonl

Novel pairs are in the training pictures and captions but have no training boxes. So that they are
not background either, ``instances_train.json`` lists only the pictures without any, and only the
base classes.
"""

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from owlkit.data.scenes.scene import Scene, Split, draw_scene
from owlkit.data.scenes.tiers import TIERS, Tier
from owlkit.data.scenes.vocabulary import BASE, CLASS_NAMES, NOVEL, shape_of
from owlkit.errors import DatasetError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScenesSummary:
    """What was written.

    Attributes:
        train: Number of training pictures.
        boxed: How many of them have boxes: those without novel pairs.
        val: Number of validation pictures.
        rarest: The least number of training pictures that any of the 64 pairs is in.
        rarest_boxed: The least number of training boxes of any of the 48 base pairs.
    """

    train: int
    boxed: int
    val: int
    rarest: int
    rarest_boxed: int


@dataclass(frozen=True)
class _Record:
    """What the JSON files say about a picture that is on the disk."""

    file: str
    size: int
    boxes: NDArray[np.float32]
    areas: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def has_novel(self) -> bool:
        return bool(np.isin(self.labels, NOVEL).any())


def make_scenes(
    out: str | Path, *, tier: str | Tier = "easy", train: int = 8000, val: int = 500, seed: int = 0
) -> ScenesSummary:
    """Makes a data set of synthetic scenes.

    Equal arguments give equal files, byte for byte, with the same versions of NumPy and OpenCV. The
    first pictures of a large data set are those of a small one.

    Args:
        out: Folder to make; may exist if empty. It is complete or not there.
        tier: ``easy``: 64 pixels, one to three objects that hardly touch, on soft backgrounds.
            ``hard``: 128 pixels, up to eight overlapping and turned objects from 8 pixels across,
            with textures, clutter, uneven light, noise and coarse JPEG. Or a tier of one's own.
        train: Number of training pictures, at least 1; a multiple of 8 makes whole groups.
        val: Number of validation pictures, at least 1.
        seed: From 0.

    Raises:
        DatasetError: If ``out`` is in use or an argument is out of its range.
    """
    out = Path(out).expanduser().resolve()
    _check(out, tier=tier, train=train, val=val, seed=seed)
    chosen = TIERS[tier] if isinstance(tier, str) else tier
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / out.name
        (folder / "annotations").mkdir(parents=True)
        training = _write_pictures(folder, chosen, "train", train, seed)
        validation = _write_pictures(folder, chosen, "val", val, seed)
        boxed = [record for record in training if not record.has_novel]
        _write_json(folder / "annotations/instances_train.json", _coco(boxed, BASE))
        _write_json(
            folder / "annotations/instances_val.json", _coco(validation, range(len(CLASS_NAMES)))
        )
        _write_json(
            folder / "annotations/split.json", {"base": _names(BASE), "novel": _names(NOVEL)}
        )
        folder.replace(out)
    summary = ScenesSummary(
        train=train,
        boxed=len(boxed),
        val=val,
        rarest=int(_counts(training).min()),
        rarest_boxed=int(_counts(boxed)[list(BASE)].min()),
    )
    logger.info("%s: %s", out, summary)
    return summary


def _check(out: Path, *, tier: str | Tier, train: int, val: int, seed: int) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out}: expected a free place or an empty folder, found files")
    if isinstance(tier, str) and tier not in TIERS:
        raise DatasetError(f"expected a tier of {', '.join(TIERS)}, found {tier!r}")
    for name, value, least in (("train", train, 1), ("val", val, 1), ("seed", seed, 0)):
        if value < least:
            raise DatasetError(f"expected {name} of at least {least}, found {value}")


def _write_pictures(folder: Path, tier: Tier, split: Split, count: int, seed: int) -> list[_Record]:
    """Writes the JPEGs and captions of a split; returns what the annotations need."""
    (folder / split).mkdir()
    records = []
    with (folder / f"captions_{split}.jsonl").open("w", encoding="utf-8") as captions:
        for index in range(count):
            scene = draw_scene(tier, split, index, seed=seed)
            file = f"{split}/{index:06d}.jpg"
            (folder / file).write_bytes(_jpeg(scene, full_chroma=tier.full_chroma))
            captions.write(json.dumps(_caption_line(file, scene)) + "\n")
            records.append(_Record(file, tier.size, scene.boxes, scene.areas, scene.labels))
    return records


def _jpeg(scene: Scene, *, full_chroma: bool) -> bytes:
    sampling = (
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        if full_chroma
        else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    )
    quality = (cv2.IMWRITE_JPEG_QUALITY, scene.jpeg_quality)
    settings = (*quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
    _, encoded = cv2.imencode(".jpg", scene.image[:, :, ::-1], settings)
    return encoded.tobytes()


def _caption_line(file: str, scene: Scene) -> dict[str, Any]:
    line = {"file": file, "captions": scene.captions}
    return line if scene.group is None else {**line, "group": scene.group}


def _coco(records: Sequence[_Record], labels: Iterable[int]) -> dict[str, Any]:
    """COCO instances of the given classes. All ids begin at 1: pycocotools takes 0 for "none"."""
    return {
        "info": {"description": "owlkit synthetic scenes"},
        "licenses": [],
        "images": [
            {
                "id": number,
                "file_name": record.file,
                "width": record.size,
                "height": record.size,
            }
            for number, record in enumerate(records, start=1)
        ],
        "annotations": [
            {"id": number, **annotation}
            for number, annotation in enumerate(_annotations(records), start=1)
        ],
        "categories": [
            {"id": label + 1, "name": CLASS_NAMES[label], "supercategory": shape_of(label)}
            for label in labels
        ],
    }


def _annotations(records: Sequence[_Record]) -> Iterator[dict[str, Any]]:
    """The boxes of all pictures, as xywh pixels."""
    for number, record in enumerate(records, start=1):
        sizes = record.boxes[:, 2:] - record.boxes[:, :2]
        boxes = np.concatenate([record.boxes[:, :2], sizes], axis=1)
        for box, area, label in zip(boxes, record.areas, record.labels, strict=True):
            yield {
                "image_id": number,
                "category_id": int(label) + 1,
                "bbox": box.tolist(),
                "area": round(float(area), 2),
                "iscrowd": 0,
            }


def _names(labels: Iterable[int]) -> list[str]:
    return [CLASS_NAMES[label] for label in labels]


def _counts(records: Sequence[_Record]) -> NDArray[np.int64]:
    """How often each label occurs [64]; never more than once in a picture."""
    labels = [record.labels for record in records]
    return np.bincount(np.concatenate([*labels, np.zeros(0, np.int64)]), minlength=len(CLASS_NAMES))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
