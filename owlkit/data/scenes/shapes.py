"""Outlines of the eight shapes, and how much of each pixel they cover.

Outlines are polygons [K, 2] of (x, y), x to the right and y down, centred on the box around them,
whose longer side goes from -1 to 1. Where a pixel's centre is at (0.5, 0.5), its corners are whole
numbers, as in the boxes of COCO.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Contour = NDArray[np.float64]

_SAMPLES = 8  # sub-pixels per pixel and direction
_FRACTION_BITS = 8  # OpenCV takes corners as integers with this many binary places


def place(
    shape: str, *, centre: tuple[float, float], radius: float, turn: float, mirrored: bool
) -> tuple[Contour, ...]:
    """The outline of a shape somewhere in an image.

    Args:
        shape: One of ``SHAPES``.
        centre: x, y in pixels.
        radius: Half the longer side of the upright shape, in pixels.
        turn: Clockwise, in radians.
        mirrored: Whether left and right are exchanged before the turn.

    Returns:
        One polygon in pixels, two (the outer one first) for a shape with a hole.
    """
    cosine, sine = np.cos(turn), np.sin(turn)
    flip = -1.0 if mirrored else 1.0
    matrix = radius * np.array([[flip * cosine, flip * sine], [-sine, cosine]])
    return tuple(contour @ matrix + centre for contour in _OUTLINES[shape])


def extent(contours: Sequence[Contour]) -> NDArray[np.float64]:
    """The tight box of placed contours, xyxy pixels [4]."""
    outer = contours[0]
    return np.concatenate([outer.min(axis=0), outer.max(axis=0)])


def area(contours: Sequence[Contour]) -> float:
    """Square pixels inside the first contour and outside the others, its holes."""
    outer, *holes = (
        abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 for x, y in (each.T for each in contours)
    )
    return float(outer - sum(holes))


def draw(contours: Sequence[Contour], size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draws what lies inside the contours and outside their holes.

    Args:
        contours: Polygons in pixels, with their box at least partly in the image.
        size: Side of the image in pixels.

    Returns:
        How much of each pixel is covered [size, size], in [0, 1], and the tight box of what is in
        the image, xyxy pixels [4] in steps of 1/8.
    """
    # Only the pixels around the shape are drawn, each as 8 x 8.
    low, high = np.split(extent(contours).clip(0, size), 2)
    x0, y0 = corner = np.floor(low).astype(int)
    x1, y1 = np.ceil(high).astype(int)
    fine = np.zeros(((y1 - y0) * _SAMPLES, (x1 - x0) * _SAMPLES), np.uint8)
    # A sub-pixel's centre is at a whole number for OpenCV.
    points = [
        np.round(((contour - corner) * _SAMPLES - 0.5) * 2**_FRACTION_BITS).astype(np.int32)
        for contour in contours
    ]
    cv2.fillPoly(fine, points, 255, shift=_FRACTION_BITS)

    coverage = np.zeros((size, size), np.float32)
    pixels = cv2.resize(fine, None, fx=1 / _SAMPLES, fy=1 / _SAMPLES, interpolation=cv2.INTER_AREA)
    coverage[y0:y1, x0:x1] = pixels / np.float32(255)
    left, top, width, height = cv2.boundingRect(fine)
    box = np.array([left, top, left + width, top + height]) / _SAMPLES + [x0, y0, x0, y0]
    return coverage, box.astype(np.float32)


def _arc(start: float, stop: float, *, radius: float = 1.0, x: float = 0.0) -> Contour:
    """Points of a circle around (x, 0), from one angle in radians to another, ends included."""
    angles = np.linspace(start, stop, 49)
    return np.stack([x + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _star() -> Contour:
    """Five points; their angle is blunter than a pentagram's, lest the tips vanish when small."""
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2, 0.42, 1.0)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _crescent() -> Contour:
    """A disc without a smaller one that reaches over its right edge."""
    x, radius = 0.45, 0.85
    crossing = (1 - radius**2 + x**2) / (2 * x)
    outer = np.arccos(crossing)
    inner = np.arctan2(np.sin(outer), crossing - x)
    return np.concatenate(
        [_arc(outer, 2 * np.pi - outer), _arc(2 * np.pi - inner, inner, radius=radius, x=x)]
    )


def _normalised(*contours: Contour) -> tuple[Contour, ...]:
    """Moves and scales contours so that their box is centred and its longer side 2."""
    low, high = np.split(extent(contours), 2)
    return tuple((contour - (low + high) / 2) * 2 / (high - low).max() for contour in contours)


def _polygon(*corners: tuple[float, float]) -> tuple[Contour, ...]:
    return _normalised(np.array(corners))


_CIRCLE = _arc(0, 2 * np.pi)
_A = 0.31  # half the width of a cross's arms
_OUTLINES: dict[str, tuple[Contour, ...]] = {
    "circle": _normalised(_CIRCLE),
    "triangle": _polygon((0, -1), (3**0.5 / 2, 0.5), (-(3**0.5) / 2, 0.5)),
    "star": _normalised(_star()),
    "cross": _polygon(
        *[(-_A, -1), (_A, -1), (_A, -_A), (1, -_A), (1, _A), (_A, _A)],
        *[(_A, 1), (-_A, 1), (-_A, _A), (-1, _A), (-1, -_A), (-_A, -_A)],
    ),
    "ring": _normalised(_CIRCLE, 0.58 * _CIRCLE),
    "crescent": _normalised(_crescent()),
    "hourglass": _polygon((-0.8, -1), (0.8, -1), (0.12, 0), (0.8, 1), (-0.8, 1), (-0.12, 0)),
    "bar": _polygon((-0.33, -1), (0.33, -1), (0.33, 1), (-0.33, 1)),
}
