"""Colours the objects of a scene and what is behind, lights it and adds noise.

Images are float32 RGB [size, size, 3] in 0-255 until they are finished.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from owlkit.data.scenes.layout import PlacedObject
from owlkit.data.scenes.tiers import Tier
from owlkit.data.scenes.vocabulary import COLOURS, colour_of

FloatImage = NDArray[np.float32]

_COLOUR_SPREAD = 10  # an object's colour differs from its name's by up to so much per channel
_TEXTURED_FROM = 16  # pixels; in anything smaller a texture hides the shape
_CURVE_POINTS = 24


def paint(
    rng: np.random.Generator, objects: Sequence[PlacedObject], tier: Tier
) -> NDArray[np.uint8]:
    """Draws a scene.

    Args:
        rng: The scene's random numbers.
        objects: Back to front.
        tier: Which textures, clutter, light and noise there are.

    Returns:
        RGB [size, size, 3].
    """
    image = _background(rng, tier)
    if tier.clutter:
        image = _add_clutter(rng, image, tier)
    for one in objects:
        window = one.window
        covered = one.coverage[window][:, :, None]
        image[window] += (_fill(rng, one, tier) - image[window]) * covered
    image *= _light(rng, tier)
    image += rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(*tier.noise))
    return image.clip(0, 255).round().astype(np.uint8)


def _muted(rng: np.random.Generator) -> FloatImage:
    """A colour [3] that is none of the vocabulary's: neither bright, nor dark, nor saturated."""
    return (rng.uniform(90, 150) + rng.uniform(-18, 18, 3)).astype(np.float32)


def _background(rng: np.random.Generator, tier: Tier) -> FloatImage:
    colour = _muted(rng)
    if rng.random() < tier.textured:
        colour = _blend(colour, _muted(rng), _texture(rng, (tier.size, tier.size)))
    clouds = rng.normal(0, 7, (4, 4, 3)).astype(np.float32)
    return colour + cv2.resize(clouds, (tier.size, tier.size), interpolation=cv2.INTER_CUBIC)


def _fill(rng: np.random.Generator, one: PlacedObject, tier: Tier) -> FloatImage:
    """An object's surface within its window [h, w, 3], or one colour [3]."""
    spread = rng.uniform(-_COLOUR_SPREAD, _COLOUR_SPREAD, 3)
    colour: FloatImage = (colour_of(one.label) + spread).astype(np.float32)
    low, high = np.split(one.outline, 2)
    if (high - low).max() < _TEXTURED_FROM or rng.random() >= tier.textured:
        return colour
    # A second shade of the same colour: darker, but a little lighter for black.
    shade = colour * np.float32(0.72) if colour.max() > 100 else colour + np.float32(40)
    height, width = one.coverage[one.window].shape
    return _blend(colour, shade, _texture(rng, (height, width)))


def _blend(first: FloatImage, second: FloatImage, share: FloatImage) -> FloatImage:
    """Mixes two colours [3] by the share of the second [h, w]: [h, w, 3]."""
    mixed: FloatImage = first + (second - first) * share[:, :, None]
    return mixed


def _texture(rng: np.random.Generator, shape: tuple[int, int]) -> FloatImage:
    """Stripes, checks or dots with soft edges, of the given height and width, in [0, 1]."""
    period = rng.uniform(5, 14)
    angle = rng.uniform(0, np.pi)
    y, x = (np.arange(side, dtype=np.float32) * (2 * np.pi / period) for side in shape)
    u = x * np.cos(angle) + y[:, None] * np.sin(angle) + rng.uniform(0, 2 * np.pi)
    v = y[:, None] * np.cos(angle) - x * np.sin(angle) + rng.uniform(0, 2 * np.pi)
    kind = rng.integers(3)
    if kind == 0:
        wave = np.sin(u)
    elif kind == 1:
        wave = np.sin(u) * np.sin(v)
    else:
        wave = np.cos(u) + np.cos(v) - 0.8
    texture: FloatImage = (0.5 + 1.5 * wave).clip(0, 1).astype(np.float32)
    return texture


def _add_clutter(rng: np.random.Generator, image: FloatImage, tier: Tier) -> FloatImage:
    """Draws strokes and blobs that are none of the shapes.

    A stroke is thin and may have an object's colour; a blob is as large as an object and never has.
    """
    canvas = np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))
    palette = list(COLOURS.values())
    for _ in range(rng.integers(tier.clutter, endpoint=True)):
        centre = rng.uniform(0, tier.size, 2)
        if rng.random() < 0.5:
            colour = np.array(palette[rng.integers(len(palette))])
            _draw_stroke(rng, canvas, centre, colour)
        else:
            _draw_blob(rng, canvas, centre, _muted(rng) * rng.uniform(0.7, 1.3))
    return canvas.astype(np.float32)


def _draw_stroke(
    rng: np.random.Generator,
    canvas: NDArray[np.uint8],
    centre: NDArray[np.float64],
    colour: NDArray[np.int64],
) -> None:
    """A winding line, one or two pixels wide."""
    angles = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.45, _CURVE_POINTS).cumsum()
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(1, 2.5)
    points = _fixed_point(centre + steps.cumsum(axis=0))
    thickness = int(rng.integers(1, 2, endpoint=True))
    cv2.polylines(canvas, [points], False, colour.tolist(), thickness, cv2.LINE_AA, shift=4)


def _draw_blob(
    rng: np.random.Generator,
    canvas: NDArray[np.uint8],
    centre: NDArray[np.float64],
    colour: FloatImage,
) -> None:
    """A lumpy disc."""
    angles = np.linspace(0, 2 * np.pi, _CURVE_POINTS, endpoint=False)
    radii = rng.uniform(4, 14) * (
        1
        + 0.25 * np.sin(2 * angles + rng.uniform(0, 2 * np.pi))
        + 0.2 * np.sin(3 * angles + rng.uniform(0, 2 * np.pi))
    )
    points = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cv2.fillPoly(canvas, [_fixed_point(points)], colour.tolist(), cv2.LINE_AA, shift=4)


def _fixed_point(points: NDArray[np.float64]) -> NDArray[np.int32]:
    """Pixels with four binary places, as OpenCV's ``shift=4`` takes them."""
    return np.round((points - 0.5) * 16).astype(np.int32)


def _light(rng: np.random.Generator, tier: Tier) -> FloatImage:
    """Brightness that changes evenly across the image, [size, size, 1]."""
    first, second = rng.uniform(*tier.light, 2)
    angle = rng.uniform(0, 2 * np.pi)
    grid = np.linspace(-0.5, 0.5, tier.size)
    ramp = 0.5 + (grid * np.cos(angle) + grid[:, None] * np.sin(angle)) / 2**0.5  # in [0, 1]
    light: FloatImage = (first + (second - first) * ramp).astype(np.float32)[:, :, None]
    return light
