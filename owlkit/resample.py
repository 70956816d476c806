"""Image resampling as products with small banded matrices, without a full-size float copy.

Every resize used here is linear and separable: ``output = R @ image @ C.T`` with one weight matrix
per axis. A row of such a matrix touches only the few pixels around one output pixel, so the matrix
is stored as blocks: some output pixels times the contiguous band of input pixels that they read.
Each block is one BLAS product on rows that have just been converted from uint8 and are still in
cache. Blur, interpolation, padding colour and normalisation all end up in that one pass.

Shapes: h, w source pixels; H, W output pixels; C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from owlkit.errors import ImageError

Kernel = Literal["bicubic", "gaussian", "bilinear"]

MAX_SIDE = 131_072
"""Longest image side, in pixels, that the banded kernels accept; bounds the memory of weights."""

# Output pixels per block: enough to keep BLAS busy, few enough that a block is not mostly zeros,
# which happens sooner where the canvas shrinks much. Measured, but flat around these values.
_BLOCK = 32
_BLOCK_SHRINKING = 16
# Float32 copy of the source that is worked on at a time; should stay in the second-level cache.
_BUFFER_BYTES = 1 << 19
# Multiplications per product, below which OpenBLAS uses one thread. Threads would gain 15 % on an
# idle machine, but wait for each other up to 30 times as long where other work runs beside them.
_PRODUCT = 1 << 18


@dataclass(frozen=True)
class Axis:
    """How one image axis becomes one axis of the model input, in pixels.

    The image lies at the start of a canvas, the canvas is resized to ``target`` pixels, and
    ``length`` of those, from ``start`` on, are kept. Whatever the image does not reach, on the
    canvas or behind it, shows the fill colour.

    Args:
        source: Pixels of the image.
        canvas: Pixels of the canvas, at least ``source``.
        target: Pixels that the canvas is resized to.
        start: First pixel of the resized canvas that is kept.
        length: Pixels kept; those at or after ``target`` are fill.
    """

    source: int
    canvas: int
    target: int
    start: int
    length: int

    @classmethod
    def stretch(cls, source: int, length: int, *, canvas: int | None = None) -> "Axis":
        """Returns the axis that resizes the whole image, or the whole canvas, to ``length``."""
        return cls(source, canvas or source, length, 0, length)

    @property
    def scale(self) -> float:
        """Output pixels per image pixel."""
        return self.target / self.canvas


# How much of every output row and column comes from the image and not from the fill colour:
# float32 [H] and [W] in [0, 1].
_Cover = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class _Band:
    """Weights of some consecutive output pixels on the contiguous input pixels they read.

    Args:
        outputs: Output pixels of this block, as a slice of the axis.
        inputs: Image pixels that they read, as a slice; empty where there is only fill.
        weights: float32 [outputs, inputs].
    """

    outputs: slice
    inputs: slice
    weights: NDArray[np.float32]


def resample_image(
    image: NDArray[np.uint8],
    rows: Axis,
    columns: Axis,
    *,
    kernel: Kernel,
    fill: float = 0.0,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
) -> NDArray[np.float32]:
    """Resizes an image, pads or crops it, and normalises it: ``(resized / 255 - mean) / std``.

    Kernels:

    - ``"gaussian"``: Gaussian blur with sigma (factor - 1) / 2 on each axis that shrinks by
      factor > 1, cut at 4 sigma, then linear interpolation aligned by pixel centres; both mirror
      the canvas at its border without repeating the edge pixel. This is
      ``skimage.transform.resize(order=1, anti_aliasing=True)`` [0].
    - ``"bilinear"``: linear interpolation aligned by pixel centres, border repeated, no blur
      whatever the factor. This is ``tf.image.resize(method="bilinear", antialias=False)`` [1].
    - ``"bicubic"``: Pillow's [2] antialiased bicubic, with its rounding to uint8.

    - [0]: scikit-image, 2014, https://scikit-image.org/docs/stable/api/skimage.transform.html
    - [1]: TensorFlow, https://www.tensorflow.org/api_docs/python/tf/image/resize
    - [2]: Pillow, https://pillow.readthedocs.io/en/stable/handbook/concepts.html#filters

    Args:
        image: uint8 [h, w, C], values 0 to 255.
        rows: The vertical axis; its source is h.
        columns: The horizontal axis; its source is w.
        kernel: How pixels are weighted.
        fill: Colour outside the image, in [0, 1], the same for every channel.
        mean: Subtracted from each of the C channels, in [0, 1].
        std: Divides each of the C channels.

    Returns:
        float32 [C, H, W], where H and W are the axes' lengths.

    Raises:
        ImageError: If a side is longer than ``MAX_SIDE`` (not for ``"bicubic"``).
        ValueError: If ``"bicubic"`` is asked for on a canvas larger than the image.
    """
    if kernel == "bicubic":
        pixels, covered = _resize_with_pillow(image, rows, columns)
    else:
        pixels, covered = _resize_with_bands(image, rows, columns, kernel)
    gain = (1 / np.asarray(std, np.float64)).astype(np.float32)
    pixels *= gain[:, None, None] / 255
    pixels -= (np.asarray(mean, np.float32) * gain)[:, None, None]
    if fill and min(covered[0].min(), covered[1].min()) < 1:
        missing = fill * (1 - np.outer(*covered))  # [H, W]
        for channel, factor in zip(pixels, gain, strict=True):
            channel += missing * factor
    return pixels


def _resize_with_pillow(
    image: NDArray[np.uint8], rows: Axis, columns: Axis
) -> tuple[NDArray[np.float32], _Cover]:
    """Like :func:`_resize_with_bands`, for Pillow's bicubic filter."""
    if rows.canvas != rows.source or columns.canvas != columns.source:
        raise ValueError("bicubic resizing cannot pad before it resizes")
    (row_part, height, top, bottom), (column_part, width, left, right) = map(
        _kept_part, (rows, columns)
    )
    resized = Image.fromarray(image[row_part, column_part])
    # Each pass rounds to uint8, so their order shows. Pillow went horizontally first until
    # version 13 changed it to this; one call per pass gives the same pixels with every version.
    rows_first = rows.source - rows.target > max(0, 2 * (columns.source - columns.target))
    for vertical in (rows_first, not rows_first):
        size = (resized.width, height) if vertical else (width, resized.height)
        box = (0.0, top, resized.width, bottom) if vertical else (left, 0.0, right, resized.height)
        resized = resized.resize(size, Image.Resampling.BICUBIC, box=box)
    pixels = np.zeros((image.shape[2], rows.length, columns.length), np.float32)
    pixels[:, :height, :width] = np.asarray(resized).transpose(2, 0, 1)
    row_cover = (np.arange(rows.length) < height).astype(np.float32)
    column_cover = (np.arange(columns.length) < width).astype(np.float32)
    return pixels, (row_cover, column_cover)


def _kept_part(axis: Axis) -> tuple[slice, int, float, float]:
    """Returns what of the image the kept output pixels show.

    Returns:
        The image pixels that the filter reads, as a slice; the number of output pixels that show
        them; and the first and the last edge of what is shown, in pixels of that slice.
    """
    stop = min(axis.start + axis.length, axis.target)
    first, last = (edge * axis.source / axis.target for edge in (axis.start, stop))
    reach = 2 * max(1.0, axis.source / axis.target) + 1
    low, high = max(0, int(first - reach)), min(axis.source, int(last + reach) + 1)
    return slice(low, high), stop - axis.start, first - low, last - low


def _resize_with_bands(
    image: NDArray[np.uint8], rows: Axis, columns: Axis, kernel: Kernel
) -> tuple[NDArray[np.float32], _Cover]:
    """Resizes with a black surround.

    Returns:
        The resized image, float32 [C, H, W] in 0 to 255, and what of it the image covers.
    """
    height, width, channels = image.shape
    row_bands, row_cover = _bands(rows, kernel)
    column_bands, column_cover = _bands(columns, kernel)
    flat = np.ascontiguousarray(image).reshape(height, width * channels)
    block = len(row_bands[0].weights)
    strip = np.empty((block, width * channels), np.float32)
    planar = np.empty((channels, block, width), np.float32)
    pixels = np.empty((channels, rows.length, columns.length), np.float32)
    for band in row_bands:
        count = len(band.weights)
        _mix_rows(flat, band, out=strip[:count])
        # Channels are separated here, where there are fewest rows to move.
        np.copyto(planar[:, :count], strip[:count].reshape(count, width, -1).transpose(2, 0, 1))
        _mix_columns(planar[:, :count], column_bands, out=pixels[:, band.outputs])
    return pixels, (row_cover, column_cover)


def _mix_rows(flat: NDArray[np.uint8], band: _Band, *, out: NDArray[np.float32]) -> None:
    """Writes the block's output rows, [outputs, w * C], from source rows ``flat`` [h, w * C]."""
    outputs, inputs = band.weights.shape
    if not inputs:
        out[:] = 0
        return
    width = max(16, _PRODUCT // (outputs * inputs) // 16 * 16)
    step = max(1, _BUFFER_BYTES // (4 * inputs * width)) * width
    for left in range(0, flat.shape[1], step):
        part = flat[band.inputs, left : left + step].astype(np.float32)
        target = out[:, left : left + step]
        whole = part.shape[1] // width * width
        np.matmul(
            band.weights,
            _side_by_side(part[:, :whole], width),
            out=_side_by_side(target[:, :whole], width),
        )
        np.matmul(band.weights, part[:, whole:], out=target[:, whole:])


def _side_by_side(matrix: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Views a matrix [rows, n * width] as n matrices [n, rows, width]."""
    rows, columns = matrix.shape
    return matrix.reshape(rows, columns // width, width).swapaxes(0, 1)


def _mix_columns(
    planar: NDArray[np.float32], bands: tuple[_Band, ...], *, out: NDArray[np.float32]
) -> None:
    """Writes [C, rows, W] from ``planar`` [C, rows, w]."""
    for band in bands:
        if band.weights.shape[1]:
            np.matmul(planar[:, :, band.inputs], band.weights.T, out=out[:, :, band.outputs])
        else:
            out[:, :, band.outputs] = 0


@lru_cache(maxsize=32)
def _bands(axis: Axis, kernel: Kernel) -> tuple[tuple[_Band, ...], NDArray[np.float32]]:
    """Returns the blocks of one axis and, for every output pixel, the sum of its weights [length].

    Raises:
        ImageError: If the canvas is longer than ``MAX_SIDE``.
    """
    if axis.canvas > MAX_SIDE:
        raise ImageError(f"expected image sides up to {MAX_SIDE} pixels; found {axis.canvas}")
    block = _BLOCK_SHRINKING if axis.canvas > 3 * axis.target else _BLOCK
    bands = []
    for first in range(0, axis.length, block):
        outputs = np.arange(first, min(first + block, axis.length))
        index, weight = _taps(axis, kernel, outputs + axis.start)
        bands.append(_dense_block(outputs, index, weight))
    covered = np.concatenate([band.weights.sum(axis=1) for band in bands])
    # Rounding of the sums must not pass for padding, which costs time to fill.
    covered[np.abs(covered - 1) < 1e-6] = 1
    return tuple(bands), covered


def _dense_block(
    outputs: NDArray[np.int64], index: NDArray[np.int64], weight: NDArray[np.float64]
) -> _Band:
    """Gathers the taps [outputs, taps] of one block, those of weight zero left out, in a matrix."""
    used = weight != 0
    low, high = (int(index[used].min()), int(index[used].max()) + 1) if used.any() else (0, 0)
    width = high - low
    cell = np.arange(len(outputs))[:, None] * width + (index - low)
    dense = np.bincount(cell[used], weight[used], minlength=len(outputs) * width)
    weights = dense.reshape(len(outputs), width).astype(np.float32)
    return _Band(slice(int(outputs[0]), int(outputs[-1]) + 1), slice(low, high), weights)


def _taps(
    axis: Axis, kernel: Kernel, outputs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns the canvas pixels that some output pixels read, and their weights, both [n, taps].

    Blurring and then interpolating between two neighbours equals one kernel: the blur shifted to
    either neighbour, mixed by the distance to it. Taps on the padding, and those of outputs behind
    the resized canvas, have weight zero.
    """
    factor = axis.canvas / axis.target
    sigma = max(0.0, (factor - 1) / 2) if kernel == "gaussian" else 0.0
    blur = _gaussian(sigma)
    radius = len(blur) // 2
    position = (outputs + 0.5) * factor - 0.5
    floor = np.floor(position).astype(np.int64)
    fraction = (position - floor)[:, None]
    weight = np.zeros((len(outputs), len(blur) + 1))
    weight[:, :-1] += blur * (1 - fraction)
    weight[:, 1:] += blur * fraction
    index = floor[:, None] + np.arange(-radius, radius + 2)
    border = _mirrored if kernel == "gaussian" else _repeated
    index = border(index, axis.canvas)
    weight[(index >= axis.source) | (outputs >= axis.target)[:, None]] = 0
    return index, weight


def _gaussian(sigma: float) -> NDArray[np.float64]:
    """Returns a Gaussian cut at 4 sigma that sums to 1, of odd length; ``[1]`` for sigma 0."""
    if sigma == 0:
        return np.ones(1)
    radius = int(4 * sigma + 0.5)
    values = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(values / values.sum())


def _mirrored(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Folds indices into [0, length) by reflection about the centres of the edge pixels."""
    if length == 1:
        return np.zeros_like(index)
    period = 2 * (length - 1)
    folded = index % period
    return np.minimum(folded, period - folded)


def _repeated(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Moves indices outside [0, length) to the nearest edge pixel."""
    return index.clip(0, length - 1)
