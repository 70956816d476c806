"""Draws detections on an image, with Pillow alone.

Boxes are xyxy in pixels of the image; sizes are in pixels too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from owlkit.detections import Detections
from owlkit.errors import DetectionsError, ImageError

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Okabe and Ito's colours, which people with any colour vision can tell apart (Color Universal
# Design, 2008, https://jfly.uni-koeln.de/color/), without black; neighbours differ in brightness.
_HUES: tuple[Colour, ...] = (
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (0, 114, 178),
    (230, 159, 0),
)
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_RIM_OPACITY = 120

# Chips may cover this share of the image, and this share of a chip may lie under better ones; what
# exceeds it is left out, because nobody could read it or see the image.
_MOST_COVERED_IMAGE = 0.25
_MOST_COVERED_CHIP = 0.1


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


# After the seven hues come their lighter and darker forms, so that 21 labels stay distinct.
PALETTE: tuple[Colour, ...] = (
    *_HUES,
    *(_mixed(hue, _WHITE, 0.45) for hue in _HUES),
    *(_mixed(hue, _BLACK, 0.35) for hue in _HUES),
)


@dataclass(frozen=True)
class _Style:
    """Sizes and colours that all boxes of one image share."""

    palette: Sequence[Colour]
    line_width: int
    font: Font
    line_height: int
    padding: int

    def colour(self, label: int) -> Colour:
        return self.palette[label % len(self.palette)]


def draw_detections(
    image: NDArray[np.uint8],
    detections: Detections,
    *,
    palette: Sequence[Colour] | None = None,
    line_width: int | None = None,
    font_size: float | None = None,
    font: str | Path | None = None,
) -> Image.Image:
    """Draws every box with a chip that holds its name and score.

    The better a detection, the later it is drawn, so that it ends on top. Chips stay inside the
    image and avoid one another where there is room. A name that is wider than the image is
    shortened; a chip is left out where better ones would hide it or chips would hide the image.

    Args:
        image: RGB, uint8 [H, W, 3]; not changed.
        detections: Boxes in pixels of this image.
        palette: RGB colours in [0, 255]; label i gets colour ``i % len(palette)``. None for 21
            colours that suit all colour vision.
        line_width: Of the boxes; None for one that suits the image size.
        font_size: Of the chips; None for one that suits the image size.
        font: A TrueType or OpenType file, for names in scripts that Pillow's own font lacks
            (it holds the Latin alphabet).

    Returns:
        A new RGB image of the same size.

    Raises:
        ImageError: If the image is not uint8 [H, W, 3].
        DetectionsError: If the detections belong to an image of another size, or the palette is
            empty.
    """
    _check(image, detections, palette)
    canvas = Image.fromarray(np.ascontiguousarray(image))
    style = _style(canvas.size, palette or PALETTE, line_width, font_size, font)
    best_first = np.argsort(-detections.scores, kind="stable")
    boxes = [_pixels(detections.boxes[row], canvas.size) for row in best_first]
    colours = [style.colour(int(label)) for label in detections.labels[best_first]]
    texts = [
        _fitting_text(detections.names[row], detections.scores[row], style, canvas.size)
        for row in best_first
    ]
    chips = _place_chips(texts, boxes, style, canvas.size)
    draw = ImageDraw.Draw(canvas, "RGBA")
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):
        _draw_box(draw, box, colour, style)
    for text, chip, colour in reversed(list(zip(texts, chips, colours, strict=True))):
        if chip is not None:
            _draw_chip(draw, text, chip, colour, style)
    return canvas


def _check(image: NDArray[Any], detections: Detections, palette: Sequence[Colour] | None) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ImageError(
            f"expected an image uint8 [H, W, 3], found {image.dtype} {list(image.shape)}"
        )
    size = image.shape[:2]
    if detections.image_size not in (None, size):
        raise DetectionsError(
            f"expected an image of {detections.image_size} (height, width), found {size}"
        )
    if palette is not None and not len(palette):
        raise DetectionsError("expected a palette of at least one colour, found none")


def _style(
    size: tuple[int, int],
    palette: Sequence[Colour],
    line_width: int | None,
    font_size: float | None,
    font: str | Path | None,
) -> _Style:
    """Sizes that follow the image, so that a thumbnail and a 20-megapixel photograph look alike."""
    side = (size[0] * size[1]) ** 0.5
    points = max(9.0, side / 42) if font_size is None else font_size
    face: Font = (
        ImageFont.load_default(points) if font is None else ImageFont.truetype(str(font), points)
    )
    _, top, _, bottom = face.getbbox("Ålgjy|")
    return _Style(
        palette=palette,
        line_width=max(1, round(side / 260)) if line_width is None else line_width,
        font=face,
        line_height=round(bottom - top),
        padding=max(1, round(points / 5)),
    )


def _pixels(box: NDArray[np.float32], size: tuple[int, int]) -> Box:
    """First and last pixel that a box covers on both axes, inside the image."""
    width, height = size
    x0, y0, x1, y1 = (round(float(value)) for value in box)
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    return x0, y0, max(x0, min(x1, width) - 1), max(y0, min(y1, height) - 1)


def _fitting_text(name: str, score: float, style: _Style, size: tuple[int, int]) -> str:
    """The longest form of "name score" that fits into the image; empty if none does."""
    if style.line_height + 2 * style.padding > size[1] // 2:
        return ""
    # A line break would make a chip of unknown height.
    name = " ".join(name.split())
    shortened = (f"{name[:length].rstrip()}…" for length in range(len(name) - 1, 0, -1))
    room = size[0] - 2 * _side_padding(style)
    for text in (f"{name} {score:.2f}".strip(), name, *shortened):
        if style.font.getlength(text) <= room:
            return text
    return ""


def _side_padding(style: _Style) -> int:
    return 2 * style.padding


def _place_chips(
    texts: Sequence[str], boxes: Sequence[Box], style: _Style, size: tuple[int, int]
) -> list[Box | None]:
    """A place inside the image for the chip of each box, best box first; None: left out."""
    chips: list[Box | None] = []
    taken: list[Box] = []
    room = _MOST_COVERED_IMAGE * size[0] * size[1]
    for text, box in zip(texts, boxes, strict=True):
        if not text:
            chips.append(None)
            continue
        chip, covered = _place(_chip_size(text, style), box, size, taken)
        area = _shared_area(chip, chip)
        # The best box keeps its chip even if the image is tiny.
        if taken and (area > room or covered > _MOST_COVERED_CHIP * area):
            chips.append(None)
            continue
        room -= area
        taken.append(chip)
        chips.append(chip)
    return chips


def _chip_size(text: str, style: _Style) -> tuple[int, int]:
    width = math.ceil(style.font.getlength(text)) + 2 * _side_padding(style)
    return width, style.line_height + 2 * style.padding


def _place(
    chip_size: tuple[int, int], box: Box, size: tuple[int, int], taken: Sequence[Box]
) -> tuple[Box, int]:
    """The first usual place at a box that is free, or the least covered, and how much it is."""
    width, height = chip_size
    x0, y0, x1, y1 = box
    rows = (y0 - height, y0, y1 + 1, y1 + 1 - height)  # above, inside, below, inside
    columns = (x0, x1 + 1 - width, (x0 + x1 + 1 - width) // 2)
    places = []
    for y in rows:
        for x in columns:
            left = min(max(x, 0), size[0] - width)
            top = min(max(y, 0), size[1] - height)
            chip = (left, top, left + width - 1, top + height - 1)
            places.append((chip, sum(_shared_area(chip, other) for other in taken)))
    return min(places, key=lambda place: place[1])


def _shared_area(a: Box, b: Box) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    return max(width, 0) * max(height, 0)


def _draw_box(draw: ImageDraw.ImageDraw, box: Box, colour: Colour, style: _Style) -> None:
    """A coloured line inside the box, with a rim that shows on a background of its colour."""
    rim = max(1, style.line_width // 3)
    rim_colour = (*_readable_on(colour), _RIM_OPACITY)
    x0, y0, x1, y1 = box
    outer = (x0 - rim, y0 - rim, x1 + rim, y1 + rim)
    draw.rounded_rectangle(outer, style.line_width, outline=rim_colour, width=rim)
    draw.rounded_rectangle(box, style.line_width, outline=colour, width=style.line_width)


def _draw_chip(
    draw: ImageDraw.ImageDraw, text: str, chip: Box, colour: Colour, style: _Style
) -> None:
    draw.rounded_rectangle(chip, style.padding, fill=colour)
    middle = (chip[0] + _side_padding(style), (chip[1] + chip[3] + 1) / 2)
    draw.text(middle, text, fill=_readable_on(colour), font=style.font, anchor="lm")


def _readable_on(colour: Colour) -> Colour:
    """Black or white, whichever contrasts more by WCAG 2 (https://www.w3.org/TR/WCAG22/)."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in colour)
    ]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return _BLACK if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else _WHITE
