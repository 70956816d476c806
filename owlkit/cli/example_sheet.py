"""A picture of examples, and of what a model took for them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from owlkit.detections import Detections
from owlkit.errors import QueryError
from owlkit.heatmaps import sheet
from owlkit.queries import Example
from owlkit.queries.embeddings import EmbeddedExample
from owlkit.visualize import draw_detections, load_font

# A title, an example, and what a model took for it.
Taken = tuple[str, Example, EmbeddedExample]

SHEET_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}

# In pixels, as on the sheets of `owlkit annotate`.
_CELL = 280
_FONT_SIZE = 11
_BACKGROUND = (225, 225, 225)
GIVEN, TAKEN = (86, 180, 233), (213, 94, 0)


def draw_examples(taken: Sequence[Taken]) -> Image.Image:
    """Each example under its title, with the box that was given and the one that was taken.

    Args:
        taken: One or more. Where an image is not there any more, the boxes are drawn on grey.
    """
    titles = [_title(title, example, embedded) for title, example, embedded in taken]
    return sheet([_cell(example, embedded) for _, example, embedded in taken], titles)


def _cell(example: Example, embedded: EmbeddedExample) -> Image.Image:
    """The image in the middle of a square, with one or two boxes."""
    height, width = example.size
    try:
        picture = Image.fromarray(example.pixels())
    except QueryError:
        # Only what has been encoded long ago may lack its image; the boxes are known all the same.
        picture = Image.new("RGB", (width, height), (128, 128, 128))
    scale = _CELL / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = picture.resize(size, Image.Resampling.BOX if scale < 1 else None)
    boxes = [embedded.box] if example.box is None else [embedded.box, example.box]
    names = ("taken", "given")[: len(boxes)]
    found = Detections(
        boxes=np.array(boxes) * np.array([size[0] / width, size[1] / height] * 2),
        # What has the higher score is drawn on top.
        scores=np.linspace(1, 0, len(boxes), dtype=np.float32),
        labels=np.arange(len(boxes)),
        names=names,
        image_size=(size[1], size[0]),
    )
    drawn = draw_detections(
        small, found, palette=(TAKEN, GIVEN), line_width=2, font_size=_FONT_SIZE, scores=False
    )
    cell = Image.new("RGB", (_CELL, _CELL), _BACKGROUND)
    cell.paste(drawn, ((_CELL - size[0]) // 2, (_CELL - size[1]) // 2))
    return cell


def _title(title: str, example: Example, embedded: EmbeddedExample) -> str:
    """As much of the title as has room, and the overlap of the boxes."""
    ending = "" if example.box is None else f", IoU {embedded.iou:.2f}"
    name = "".join(letter if letter.isprintable() else "?" for letter in title)
    font = load_font(None, _FONT_SIZE + 2, texts=[name])
    if font.getlength(name + ending) <= _CELL:
        return name + ending
    while name and font.getlength(f"{name}…{ending}") > _CELL:
        name = name[: -max(1, len(name) // 20)]
    return f"{name}…{ending}"
