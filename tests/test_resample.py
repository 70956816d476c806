"""Resampling against scikit-image, numpy's interpolation and Pillow."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage.transform import resize

from owlkit import resample
from owlkit.errors import ImageError
from owlkit.resample import Axis, resample_image

SIZES = [
    pytest.param((37, 53), (64, 40), id="both axes grow"),
    pytest.param((150, 101), (64, 33), id="both axes shrink"),
    pytest.param((30, 200), (77, 21), id="one axis grows, one shrinks"),
    pytest.param((64, 40), (64, 40), id="nothing changes"),
    pytest.param((1, 1), (5, 7), id="one pixel"),
    pytest.param((2, 1), (7, 5), id="mirroring a two-pixel axis"),
    pytest.param((300, 3), (1, 1), id="blur much wider than the image"),
    pytest.param((5, 700), (9, 40), id="more blocks than one, factor above 3"),
]


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def stretch(
    image: NDArray[np.uint8], size: tuple[int, int], kernel: resample.Kernel
) -> NDArray[np.float32]:
    rows, columns = map(Axis.stretch, image.shape[:2], size)
    return resample_image(image, rows, columns, kernel=kernel)


def skimage_resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float64]:
    """Returns scikit-image's result, [C, H, W] in [0, 1]."""
    found = resize(image, size, order=1, anti_aliasing=True)  # type: ignore[no-untyped-call]
    return np.moveaxis(found, 2, 0)


def interpolate(line: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Linear with half-pixel centres and repeated border."""
    position = (np.arange(length) + 0.5) * len(line) / length - 0.5
    return np.interp(position, np.arange(len(line)), line)


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_gaussian_equals_scikit_image(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = noise(*size, 3)
    found = stretch(image, target, "gaussian")
    np.testing.assert_allclose(found, skimage_resize(image, target), atol=2e-6)


@pytest.mark.parametrize("fill", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("size", "canvas"),
    [((60, 90), (90, 90)), ((90, 20), (90, 95)), ((40, 30), (41, 31)), ((7, 200), (200, 200))],
)
def test_gaussian_on_a_canvas_equals_padding_first(
    size: tuple[int, int], canvas: tuple[int, int], fill: float
) -> None:
    image = noise(*size, 3)
    padded = np.full((*canvas, 3), fill)
    padded[: size[0], : size[1]] = image / 255
    rows, columns = (
        Axis.stretch(n, out, canvas=c) for n, out, c in zip(size, (48, 50), canvas, strict=True)
    )
    found = resample_image(image, rows, columns, kernel="gaussian", fill=fill)
    np.testing.assert_allclose(found, skimage_resize(padded, (48, 50)), atol=2e-6)


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_bilinear_equals_interpolation_line_by_line(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    image = noise(*size, 3)
    expected = np.moveaxis(image / 255, 2, 0)
    for axis, length in enumerate(target, start=1):
        expected = np.apply_along_axis(interpolate, axis, expected, length)
    np.testing.assert_allclose(stretch(image, target, "bilinear"), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("size", "target", "order"),
    [
        pytest.param((37, 53), (64, 40), "columns first", id="both axes grow"),
        pytest.param((30, 200), (77, 21), "columns first", id="only columns shrink"),
        pytest.param((150, 101), (64, 58), "columns first", id="rows shrink by twice as much"),
        pytest.param((151, 101), (64, 58), "rows first", id="rows shrink by a pixel more"),
        pytest.param((60, 40), (59, 80), "rows first", id="only rows shrink"),
        pytest.param((64, 40), (64, 40), "columns first", id="nothing changes"),
        pytest.param((1, 1), (5, 7), "columns first", id="one pixel"),
    ],
)
def test_bicubic_equals_pillow_13(
    size: tuple[int, int], target: tuple[int, int], order: str
) -> None:
    """The order of Pillow 13.0, found by comparison with it; older ones go columns first."""
    image = noise(*size, 3)
    between = (target[1], size[0]) if order == "columns first" else (size[1], target[0])
    resized = Image.fromarray(image)
    for step in (between, target[::-1]):
        resized = resized.resize(step, Image.Resampling.BICUBIC)
    expected = np.asarray(resized).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_allclose(stretch(image, target, "bicubic"), expected, atol=1e-6)


@pytest.mark.parametrize("kernel", ["gaussian", "bilinear", "bicubic"])
def test_window_is_a_part_of_the_whole_and_the_rest_is_fill(kernel: resample.Kernel) -> None:
    image = noise(100, 80, 3)
    whole = stretch(image, (70, 44), kernel)
    rows, columns = Axis(100, 100, 70, 33, 40), Axis(80, 80, 44, 0, 50)
    found = resample_image(image, rows, columns, kernel=kernel, fill=0.25)
    # Pillow takes the window's edges as float32, so that a value may round to the next grey level,
    # in either of its passes.
    tolerance = 2.001 / 255 if kernel == "bicubic" else 1e-6
    np.testing.assert_allclose(found[:, :37, :44], whole[:, 33:], atol=tolerance)
    np.testing.assert_allclose(found[:, 37:], 0.25, atol=1e-6)
    np.testing.assert_allclose(found[:, :, 44:], 0.25, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "target"), [((333, 517), (50, 70)), ((400, 600), (40, 60)), ((50, 60), (70, 90))]
)
def test_bicubic_window_hardly_differs_from_the_whole(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    """The window is cut out of the image first, with all that the filter reads around it."""
    image = noise(*size, 3)
    whole = stretch(image, target, "bicubic")
    rows, columns = (Axis(n, n, out, 10, 20) for n, out in zip(size, target, strict=True))
    found = resample_image(image, rows, columns, kernel="bicubic")
    assert np.mean(np.abs(found - whole[:, 10:30, 10:30]) > 1e-6) < 1e-2


@pytest.mark.parametrize("kernel", ["gaussian", "bilinear", "bicubic"])
def test_normalisation_is_per_channel_and_reaches_the_fill(kernel: resample.Kernel) -> None:
    image = noise(20, 30, 3)
    rows, columns = Axis(20, 20, 10, 0, 12), Axis(30, 30, 15, 0, 16)
    mean, std = (0.1, 0.4, 0.7), (0.2, 0.5, 2.0)
    plain = resample_image(image, rows, columns, kernel=kernel, fill=0.3)
    found = resample_image(image, rows, columns, kernel=kernel, fill=0.3, mean=mean, std=std)
    for channel in range(3):
        expected = (plain[channel] - mean[channel]) / std[channel]
        np.testing.assert_allclose(found[channel], expected, atol=5e-6)


@pytest.mark.parametrize("kernel", ["gaussian", "bilinear"])
def test_white_stays_white_beside_a_bright_fill(kernel: resample.Kernel) -> None:
    image = np.full((500, 333, 3), 255, np.uint8)
    rows, columns = Axis.stretch(500, 64), Axis(333, 333, 50, 0, 64)
    found = resample_image(image, rows, columns, kernel=kernel, fill=1.0)
    np.testing.assert_allclose(found, 1, atol=1e-6)


def test_wide_images_are_processed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(40, 1501, 3)
    expected = stretch(image, (16, 16), "gaussian")
    monkeypatch.setattr(resample, "_BUFFER_BYTES", 20_000)
    monkeypatch.setattr(resample, "_PRODUCT", 20_000)
    np.testing.assert_allclose(stretch(image, (16, 16), "gaussian"), expected, atol=1e-6)


def test_views_and_read_only_images_are_read_and_left_alone() -> None:
    image = noise(40, 50, 3)
    image.flags.writeable = False
    copy = image.copy()
    found = stretch(image[::-1, ::2], (16, 16), "gaussian")
    np.testing.assert_array_equal(found, stretch(image[::-1, ::2].copy(), (16, 16), "gaussian"))
    np.testing.assert_array_equal(image, copy)


@pytest.mark.parametrize("kernel", ["gaussian", "bilinear"])
def test_blocks_tile_the_axis_and_stay_narrow(kernel: resample.Kernel) -> None:
    """A dense matrix would give the same numbers, a hundred times slower."""
    bands, covered = resample._bands(Axis.stretch(4000, 960), kernel)
    assert bands[0].outputs.start == 0
    assert bands[-1].outputs.stop == len(covered) == 960
    assert all(left.outputs.stop == right.outputs.start for left, right in pairwise(bands))
    assert sum(band.weights.size for band in bands) < 0.05 * 4000 * 960


@pytest.mark.parametrize("kernel", ["gaussian", "bilinear"])
def test_absurdly_long_side_is_refused(kernel: resample.Kernel) -> None:
    image = np.zeros((1, resample.MAX_SIDE + 1, 3), np.uint8)
    with pytest.raises(ImageError, match="up to 131072 pixels; found 131073"):
        stretch(image, (4, 4), kernel)


def test_bicubic_window_of_a_very_long_image_is_cheap() -> None:
    """The whole image would be 16 x 16 million pixels."""
    image = noise(1_000_000, 1, 3)
    rows, columns = Axis(1_000_000, 1_000_000, 16_000_000, 8_000_000, 16), Axis.stretch(1, 16)
    found = resample_image(image, rows, columns, kernel="bicubic")
    nearest = image[500_000:500_001, 0] / 255
    np.testing.assert_allclose(found[:, 7:9].mean(axis=(1, 2)), nearest[0], atol=0.1)


def test_bicubic_refuses_a_canvas() -> None:
    axis = Axis.stretch(4, 4, canvas=8)
    with pytest.raises(ValueError, match="cannot pad before"):
        resample_image(noise(4, 4, 3), axis, axis, kernel="bicubic")
