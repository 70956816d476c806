"""Pictures of what a detector finds beside what there is."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from owlkit.data.coco import ImageRecord
from owlkit.detections import Detections
from owlkit.images import load_image
from owlkit.visualize import draw_detections, load_font

_GAP = 8
_STRIP = 24
_STRIP_FONT = 14
# Small images are enlarged so that boxes and names can be read.
_SMALLEST_SIDE = 480
# Enough to see what the model believes; the rest of its 300 boxes would hide the image.
_SHOWN_THRESHOLD = 0.2
_SHOWN_BOXES = 30


def draw_samples(
    found: Iterable[tuple[ImageRecord, Detections]], names: Sequence[str], folder: Path
) -> list[Path]:
    """Draws predictions on the left and the truth on the right, one file per image.

    Args:
        found: Images with their detections.
        names: Class names that the images' labels are indices of.
        folder: Where the pictures go; made if needed.

    Returns:
        The files, ``IMAGE_ID.jpg``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for record, detections in found:
        picture = side_by_side(record, detections, names)
        files.append(folder / f"{record.id}.jpg")
        picture.save(files[-1], quality=90)
    return files


def side_by_side(record: ImageRecord, found: Detections, names: Sequence[str]) -> Image.Image:
    """One image twice: with the predictions on the left and with the truth on the right.

    A strip above names the halves, and says which predictions are shown.
    """
    image = load_image(record.path)
    scale = max(1.0, _SMALLEST_SIDE / max(image.shape[:2]))
    shown = found.filter(_SHOWN_THRESHOLD)[:_SHOWN_BOXES]
    truth = Detections(
        boxes=record.boxes,
        scores=np.ones(len(record.boxes), dtype=np.float32),
        labels=record.labels,
        names=tuple(names[label] for label in record.labels),
        image_size=(image.shape[0], image.shape[1]),
    )
    left, right = _drawn(image, shown, scale), _drawn(image, truth, scale, scores=False)
    pair = Image.new("RGB", (2 * left.width + _GAP, _STRIP + left.height), "white")
    said = f"predictions: score > {_SHOWN_THRESHOLD}, at most {_SHOWN_BOXES}"
    for half, caption, x in ((left, said, 0), (right, "truth", left.width + _GAP)):
        pair.paste(_strip(caption, half.width), (x, 0))
        pair.paste(half, (x, _STRIP))
    return pair


def _strip(caption: str, width: int) -> Image.Image:
    strip = Image.new("RGB", (width, _STRIP), "white")
    font = load_font(None, _STRIP_FONT)
    ImageDraw.Draw(strip).text((2, _STRIP // 2), caption, fill="black", font=font, anchor="lm")
    return strip


def _drawn(
    image: np.ndarray, detections: Detections, scale: float, *, scores: bool = True
) -> Image.Image:
    height, width = image.shape[:2]
    size = (round(height * scale), round(width * scale))
    enlarged = Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS)
    factors = np.array([size[1] / width, size[0] / height] * 2, dtype=np.float32)
    boxes = (detections.boxes * factors).clip(0, np.array([size[1], size[0]] * 2))
    return draw_detections(
        np.asarray(enlarged),
        Detections(
            boxes=boxes,
            scores=detections.scores,
            labels=detections.labels,
            names=detections.names,
            image_size=size,
        ),
        scores=scores,
    )
