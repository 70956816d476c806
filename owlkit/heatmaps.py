"""Drawing of maps over photographs: where a model looks, as colour, outline and sheet.

Shapes: h, w cells of a map; H, W pixels of a picture.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from owlkit.errors import ImageError
from owlkit.images import ImageSource, load_image
from owlkit.visualize import load_font

Colormap = Literal["inferno", "viridis"]
RGB = tuple[int, int, int]

# Every eighth of matplotlib's maps of these names (CC0), whose brightness rises evenly.
_COLORMAPS: dict[str, tuple[RGB, ...]] = {
    "inferno": (
        *((0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85)),
        *((227, 89, 51), (249, 140, 10), (249, 201, 50), (252, 255, 164)),
    ),
    "viridis": (
        *((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)),
        *((39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)),
    ),
}
# Share of a map's cells that have the brightest colour.
_BRIGHTEST = 0.01
_GAP = 6
_INK: RGB = (30, 30, 30)
_PAPER: RGB = (255, 255, 255)


def overlay(
    image: ImageSource,
    values: ArrayLike,
    *,
    alpha: float = 0.65,
    colormap: Colormap = "inferno",
    smooth: bool = False,
) -> Image.Image:
    """Lays a map over a picture, from the darkest colour at its least value to the brightest.

    The largest hundredth of the cells share the brightest colour: a few patches often hold so much
    more than all others that these would look alike.

    Args:
        image: A path, an http(s) URL, a PIL image or a uint8 array [H, W, 3] (RGB); not changed.
        values: Any finite numbers [h, w], of the whole picture, whatever its aspect ratio.
        alpha: How much the colours hide the picture, in [0, 1].
        colormap: ``inferno`` or ``viridis``.
        smooth: Interpolate between the cells; otherwise each cell has one colour.

    Returns:
        A new RGB picture [H, W].

    Raises:
        ImageError: If the picture cannot be read, or the map or an option cannot be used.
    """
    picture = load_image(image)
    if not 0 <= alpha <= 1:
        raise ImageError(f"expected alpha in [0, 1], found {alpha}")
    if colormap not in _COLORMAPS:
        raise ImageError(f"expected a colormap of {', '.join(_COLORMAPS)}, found {colormap!r}")
    height, width = picture.shape[:2]
    scaled = _scaled(_checked_map(values))
    colours = colour_values(stretch_map(scaled, (height, width), smooth=smooth), colormap)
    # The picture in grey, so that all colours are those of the map.
    grey = np.asarray(Image.fromarray(picture).convert("L"), dtype=np.float32)[..., None]
    return Image.fromarray(np.rint((1 - alpha) * grey + alpha * colours).astype(np.uint8))


def stretch_map(
    values: ArrayLike, size: tuple[int, int], *, smooth: bool = False
) -> NDArray[np.float32]:
    """Enlarges a map to the pixels of a picture.

    Args:
        values: Finite numbers [h, w].
        size: (H, W).
        smooth: Bilinear between the centres of the cells, instead of the nearest cell.

    Returns:
        float32 [H, W].

    Raises:
        ImageError: If the map is empty, not finite or of another shape.
    """
    cells = _checked_map(values)
    height, width = size
    kernel = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(cells).resize((width, height), kernel), dtype=np.float32)


def colour_values(values: ArrayLike, colormap: Colormap = "inferno") -> NDArray[np.float32]:
    """Colours of numbers in [0, 1] [...]: RGB in [0, 255], float32 [..., 3]."""
    anchors = np.array(_COLORMAPS[colormap], dtype=np.float32)
    places = np.clip(np.asarray(values, dtype=np.float32), 0, 1) * (len(anchors) - 1)
    left = np.minimum(places.astype(np.int64), len(anchors) - 2)
    share = (places - left)[..., None]
    coloured: NDArray[np.float32] = anchors[left] * (1 - share) + anchors[left + 1] * share
    return coloured


def outline(
    image: ImageSource, mask: ArrayLike, *, colour: RGB = (0, 255, 255), line_width: int = 2
) -> Image.Image:
    """Draws the border of a mask's cells, inside them.

    Args:
        image: See :func:`overlay`; not changed.
        mask: True inside, bool [h, w], of the whole picture.
        colour: Of the line.
        line_width: In pixels, at least 1.

    Returns:
        A new RGB picture.

    Raises:
        ImageError: If the picture cannot be read, or the mask or an option cannot be used.
    """
    picture = load_image(image).copy()
    if line_width < 1:
        raise ImageError(f"expected line_width of at least 1, found {line_width}")
    height, width = picture.shape[:2]
    inside = stretch_map(np.asarray(mask, dtype=bool), (height, width)) > 0
    # What is left if the mask shrinks by the line's width; a mask may go on outside the picture.
    core = np.pad(inside, line_width, mode="edge")
    for _ in range(line_width):
        across = core[1:-1] & core[:-2] & core[2:]
        core = across[:, 1:-1] & across[:, :-2] & across[:, 2:]
    picture[inside & ~core] = colour
    return Image.fromarray(picture)


def sheet(
    pictures: Sequence[Image.Image], titles: Sequence[str], *, columns: int | None = None
) -> Image.Image:
    """Pictures of one size side by side, each under its title.

    Args:
        pictures: One or more, all of the first one's size or fitted into it.
        titles: One each.
        columns: At least 1; None for a sheet about twice as wide as high.

    Raises:
        ImageError: If there are no pictures, or not as many titles.
    """
    if not pictures or len(pictures) != len(titles):
        raise ImageError(
            f"expected one or more pictures with a title each, found {len(pictures)} pictures and "
            f"{len(titles)} titles"
        )
    width, height = pictures[0].size
    columns = columns or _columns(len(pictures), width / height)
    columns = max(1, min(columns, len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    font = load_font(None, max(11.0, (width * height) ** 0.5 / 22), texts=titles)
    _, top, _, bottom = font.getbbox("Ålgy|")
    line = math.ceil(bottom - top) + _GAP
    size = columns * (width + _GAP) + _GAP, rows * (height + line + _GAP) + _GAP
    drawn = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(drawn)
    for number, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        left = _GAP + number % columns * (width + _GAP)
        upper = _GAP + number // columns * (height + line + _GAP)
        draw.text((left, upper + line / 2), title, fill=_INK, font=font, anchor="lm")
        shown = picture if picture.size == (width, height) else picture.resize((width, height))
        drawn.paste(shown, (left, upper + line))
    return drawn


def _columns(count: int, aspect: float) -> int:
    """So many that the sheet is about twice as wide as high, and its last row rather full.

    Args:
        count: Of pictures.
        aspect: Their width by their height.
    """
    wanted = math.sqrt(2 * count / aspect)

    def cost(columns: int) -> float:
        empty = -count % columns
        return 1.5 * empty + 2 * abs(columns - wanted)

    return min(range(1, count + 1), key=cost)


def _checked_map(values: ArrayLike) -> NDArray[np.float32]:
    cells = np.asarray(values, dtype=np.float32)
    if cells.ndim != 2 or not cells.size or not np.isfinite(cells).all():
        finite = "" if np.isfinite(cells).all() else " with NaN or infinity"
        raise ImageError(
            f"expected a map of finite numbers [h, w], found shape {list(cells.shape)}{finite}"
        )
    return cells


def _scaled(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """The map from 0 to 1, where its largest hundredth is; all 0 where its values are equal."""
    low, high = float(cells.min()), float(np.quantile(cells, 1 - _BRIGHTEST))
    high = high if high > low else float(cells.max())
    scaled: NDArray[np.float32] = (cells - low) / (high - low if high > low else 1.0)
    return scaled.clip(0, 1)
