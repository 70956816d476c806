"""Draws detections on an image, with Pillow alone.

Boxes are xyxy in pixels of the image; sizes are in pixels too.
"""

import math
import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from owlkit.detections import Detections
from owlkit.errors import DetectionsError
from owlkit.images import ImageSource, load_image

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Palette = Sequence[Sequence[int]] | NDArray[np.integer]

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
# A chip that covers more of its own box than this is put elsewhere, if there is a place.
_MOST_COVERED_BOX = 0.25

# Fonts of common systems that hold many scripts, by the name under which Pillow finds them.
_FONTS_OF_MANY_SCRIPTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf")
# No character: every font draws its sign for a missing glyph.
_NO_CHARACTER = "\U0010ffff"


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
    image: ImageSource,
    detections: Detections,
    *,
    palette: Palette | None = None,
    line_width: int | None = None,
    font_size: float | None = None,
    font: str | os.PathLike[str] | None = None,
    scores: bool = True,
) -> Image.Image:
    """Draws every box with a chip that holds its track number ("#7"), name and score.

    The better a detection, the later it is drawn, so that it ends on top. Chips stay inside the
    image and avoid one another where there is room. A name that is wider than the image is
    shortened; a chip is left out where better ones would hide it or chips would hide the image.

    Args:
        image: A path, an http(s) URL, a PIL image or a uint8 array [H, W, 3] (RGB); not changed.
        detections: Boxes in pixels of this image.
        palette: RGB colours, integers in [0, 255] [C, 3]; label i gets colour ``i % C``. None for
            21 colours that suit all colour vision.
        line_width: Of the boxes, at least 1; None for one that suits the image size.
        font_size: Of the chips, at least 1; None for one that suits the image size.
        font: A TrueType or OpenType file. None for Pillow's own font, which holds the Latin
            alphabet, or one of the system's that lacks fewer characters of the names.
        scores: Whether chips hold scores; without them, what was annotated is drawn.

    Returns:
        A new RGB image of the same size.

    Raises:
        ImageError: If the image cannot be read.
        DetectionsError: If the detections belong to an image of another size, or an option cannot
            be used.
    """
    pixels = load_image(image)
    _check_size(pixels, detections)
    canvas = Image.fromarray(pixels)
    side = (canvas.width * canvas.height) ** 0.5
    # Sizes follow the image, so that a thumbnail and a 20-megapixel photograph look alike.
    points = max(9.0, side / 42) if font_size is None else font_size
    width = max(1, round(side / 260)) if line_width is None else line_width
    colours_of_labels = PALETTE if palette is None else _checked_palette(palette)
    face = load_font(font, points, texts=detections.names)
    style = _style(colours_of_labels, width, face, points)
    best_first = np.argsort(-detections.scores, kind="stable")
    boxes = [_pixels(detections.boxes[row], canvas.size) for row in best_first]
    colours = [style.colour(int(label)) for label in detections.labels[best_first]]
    names = _numbered_names(detections)
    endings = [f" {score:.2f}" if scores else "" for score in detections.scores]
    texts = [_fitting_text(names[row], endings[row], style, canvas.size) for row in best_first]
    chips = _place_chips(texts, boxes, style, canvas.size)
    draw = ImageDraw.Draw(canvas, "RGBA")
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):
        _draw_box(draw, box, colour, style)
    for text, chip, colour in reversed(list(zip(texts, chips, colours, strict=True))):
        if chip is not None:
            _draw_chip(draw, text, chip, colour, style)
    return canvas


def class_palette(colours: Iterable[Colour | None]) -> tuple[Colour, ...]:
    """A palette in which some classes have a colour of their own.

    Args:
        colours: RGB of each class in the order of labels; None for the usual one of its label.

    Returns:
        What :func:`draw_detections` takes as ``palette``.
    """
    return tuple(
        PALETTE[label % len(PALETTE)] if colour is None else colour
        for label, colour in enumerate(colours)
    )


def load_font(
    font: str | os.PathLike[str] | None, size: float, *, texts: Iterable[str] = ()
) -> Font:
    """Opens a font, so that a wrong one is found before there is anything to draw.

    Args:
        font: A TrueType or OpenType file; None for Pillow's own font, or one of the system's that
            lacks fewer characters of the texts.
        size: In pixels, at least 1.
        texts: What is going to be written.

    Raises:
        DetectionsError: If the size is out of range or the file cannot be read as a font.
    """
    if not (_is_number(size) and 1 <= size < math.inf):
        raise DetectionsError(f"expected font_size of at least 1, found {size!r}")
    try:
        if font is None:
            return _own_or_system_font(size, texts)
        return ImageFont.truetype(os.fspath(font), size)
    except (OSError, TypeError, ValueError) as error:
        raise DetectionsError(
            f"expected a TrueType or OpenType file and a font_size in its range, found "
            f"{font or 'no file'} and {size}: {error}"
        ) from error


def _own_or_system_font(size: float, texts: Iterable[str]) -> Font:
    """Pillow's own font, or the one of the system's that lacks fewest characters of the texts."""
    own, characters = ImageFont.load_default(size), set().union(*texts)
    if not _missing(own, characters):
        return own
    fonts = [own, *(ImageFont.truetype(path, size) for path in _system_fonts())]
    return min(fonts, key=lambda font: _missing(font, characters))


def _missing(font: Font, characters: Iterable[str]) -> int:
    """How many characters the font would draw as its sign for a missing glyph."""
    unknown = font.getmask(_NO_CHARACTER)
    return sum(
        mask.size == unknown.size and bytes(mask) == bytes(unknown)
        for mask in (font.getmask(one) for one in characters if one.isprintable())
    )


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    """Files of those fonts of many scripts that are installed; looked for once, in many folders."""
    found = []
    for name in _FONTS_OF_MANY_SCRIPTS:
        try:
            found.append(str(ImageFont.truetype(name, 10).path))
        except OSError:
            continue
    return tuple(found)


def _check_size(image: NDArray[np.uint8], detections: Detections) -> None:
    size = image.shape[:2]
    if detections.image_size not in (None, size):
        raise DetectionsError(
            f"expected an image of {detections.image_size} (height, width), found {size}"
        )


def _checked_palette(palette: Palette) -> tuple[Colour, ...]:
    expected = "expected a palette of at least one RGB colour, integers in [0, 255] [C, 3]"
    try:
        colours = np.asarray(palette)
    except ValueError as error:
        raise DetectionsError(f"{expected}; {error}") from error
    if colours.ndim != 2 or colours.shape[1] != 3 or not len(colours):
        raise DetectionsError(f"{expected}; found shape {list(colours.shape)}")
    if colours.dtype.kind not in "iu" or colours.min() < 0 or colours.max() > 255:
        raise DetectionsError(f"{expected}; found {colours.dtype} {colours.tolist()}")
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colours)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _style(palette: Sequence[Colour], line_width: int, font: Font, points: float) -> _Style:
    if not (isinstance(line_width, int | np.integer) and line_width >= 1):
        raise DetectionsError(f"expected line_width of at least 1, found {line_width!r}")
    _, top, _, bottom = font.getbbox("Ålgjy|")
    return _Style(
        palette=palette,
        line_width=int(line_width),
        font=font,
        line_height=round(bottom - top),
        padding=max(1, round(points / 5)),
    )


def _numbered_names(detections: Detections) -> Sequence[str]:
    if detections.track_ids is None:
        return detections.names
    return [
        f"#{track} {name}" if track >= 0 else name
        for name, track in zip(detections.names, detections.track_ids.tolist(), strict=True)
    ]


def _pixels(box: NDArray[np.float32], size: tuple[int, int]) -> Box:
    """First and last pixel that a box covers on both axes, inside the image."""
    width, height = size
    x0, y0, x1, y1 = (round(float(value)) for value in box)
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    return x0, y0, max(x0, min(x1, width) - 1), max(y0, min(y1, height) - 1)


def _fitting_text(name: str, ending: str, style: _Style, size: tuple[int, int]) -> str:
    """The longest form of a name and its score that fits into the image; empty if none does."""
    if style.line_height + 2 * style.padding > size[1] // 2:
        return ""
    room = size[0] - 2 * _side_padding(style)
    # A line break would make a chip of unknown height.
    name = " ".join(name.split())
    for text in (f"{name}{ending}".strip(), name):
        # A character is at least a pixel wide; to measure thousands of them takes long.
        if len(text) <= room and style.font.getlength(text) <= room:
            return text
    lengths = range(1, min(len(name), room))
    fitting = bisect_right(
        lengths, float(room), key=lambda length: style.font.getlength(_shortened(name, length))
    )
    return _shortened(name, lengths[fitting - 1]) if fitting else ""


def _shortened(name: str, length: int) -> str:
    return f"{name[:length].rstrip()}…"


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
    """The first usual place at a box that is free, or the least covered, and how much it is.

    Of places that are as free as one another, those that leave the box itself to be seen go first.
    """
    width, height = chip_size
    x0, y0, x1, y1 = box
    rows = (y0 - height, y0, y1 + 1, y1 + 1 - height)  # above, inside, below, inside
    columns = (x0, x1 + 1 - width, (x0 + x1 + 1 - width) // 2)
    beside = [(x, y) for y in (rows[1], rows[3]) for x in (x1 + 1, x0 - width)]
    most = _MOST_COVERED_BOX * _shared_area(box, box)
    places = []
    for x, y in [*((x, y) for y in rows for x in columns), *beside]:
        left = min(max(x, 0), size[0] - width)
        top = min(max(y, 0), size[1] - height)
        chip = (left, top, left + width - 1, top + height - 1)
        covered = sum(_shared_area(chip, other) for other in taken)
        places.append((chip, covered, _shared_area(chip, box) > most))
    chip, covered, _ = min(places, key=lambda place: place[1:])
    return chip, covered


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
