"""Sheets of small annotated pictures, for looking through what was found."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from owlkit.detections import Detections
from owlkit.errors import ImageError
from owlkit.heatmaps import sheet
from owlkit.images import load_image
from owlkit.labels.image import LabelledImage
from owlkit.visualize import Palette, draw_detections, load_font

# In pixels. Large enough to read a chip, small enough for 24 on a screen.
_CELL = 280
_COLUMNS = 6
_FONT_SIZE = 11
_BACKGROUND = (225, 225, 225)


def by_doubt(least_scores: Iterable[tuple[str, float | None]]) -> list[str]:
    """Images in the order in which they should be looked through.

    Args:
        least_scores: Names of images with the least score of their boxes; None without boxes.

    Returns:
        The names: lowest score first, images without boxes last, of equals the lower name first.
    """
    never = 2.0  # above all scores
    order = sorted((never if score is None else score, name) for name, score in least_scores)
    return [name for _, name in order]


def draw_contact_sheet(
    images: Sequence[LabelledImage], *, palette: Palette | None = None, columns: int = _COLUMNS
) -> Image.Image:
    """Draws images with their boxes side by side, each under its name and lowest score.

    Args:
        images: One or more, of any size, that know their paths. One that cannot be read any more
            leaves its place empty.
        palette: See :func:`owlkit.visualize.draw_detections`.
        columns: At least 1.

    Returns:
        An RGB picture; each image in it fits 280x280 pixels.

    Raises:
        ImageError: If there are no images, or one has no path.
        DetectionsError: If the palette cannot be used.
    """
    pictures = [_cell(image, palette) for image in images]
    return sheet(pictures, [_title(image) for image in images], columns=columns)


def _cell(image: LabelledImage, palette: Palette | None) -> Image.Image:
    """The image with its boxes in the middle of a square."""
    cell = Image.new("RGB", (_CELL, _CELL), _BACKGROUND)
    if image.path is None:
        raise ImageError(f"{image.file_name}: expected an image with a path to draw, found none")
    try:
        pixels = Image.fromarray(load_image(image.path))
    except ImageError:
        return cell
    scale = _CELL / max(pixels.size)
    # Of a thin strip at least one pixel is left.
    width, height = (max(1, round(side * scale)) for side in pixels.size)
    small = pixels.resize((width, height), Image.Resampling.BOX if scale < 1 else None)
    found = _scaled(image, (width, height))
    # Boxes are scaled before they are drawn, so that lines and letters stay readable.
    drawn = draw_detections(small, found, palette=palette, font_size=_FONT_SIZE, line_width=2)
    cell.paste(drawn, ((_CELL - width) // 2, (_CELL - height) // 2))
    return cell


def _scaled(image: LabelledImage, size: tuple[int, int]) -> Detections:
    """The detections in a picture of another width and height."""
    factors = np.array([size[0] / image.width, size[1] / image.height] * 2, dtype=np.float32)
    boxes = image.detections.boxes * factors
    return replace(image.detections, boxes=boxes, image_size=(size[1], size[0]))


def _title(image: LabelledImage) -> str:
    """As much of the end of the file's name as has room, and the lowest score."""
    scores = image.detections.scores
    ending = f" {scores.min():.2f}" if len(scores) else " -"
    # What is not printable would be drawn as boxes, and a line break widen the line.
    name = "".join(letter if letter.isprintable() else "?" for letter in image.file_name)
    font = load_font(None, _FONT_SIZE + 2, texts=[name])
    if font.getlength(name + ending) <= _CELL:
        return name + ending
    while name and font.getlength(f"…{name}{ending}") > _CELL:
        name = name[max(1, len(name) // 20) :]
    return f"…{name}{ending}"
