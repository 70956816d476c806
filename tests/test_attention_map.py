"""Maps of the original image, pixel by pixel."""

import numpy as np
import pytest

from owlkit.attention_map import AttentionMaps
from owlkit.errors import ImageError
from owlkit.geometry import Fit, ImageTransform, Preprocessing
from owlkit.heatmaps import overlay, stretch_map
from owlkit.resample import Kernel


def make_maps(transform: ImageTransform) -> AttentionMaps:
    heads = np.random.default_rng(0).random((3, 4, 6), dtype=np.float32)
    return AttentionMaps(heads, transform)


def cell_by_cell(cells: np.ndarray, transform: ImageTransform) -> np.ndarray:
    """For each pixel the cell under its centre, 0 where there is none."""
    height, width = transform.image_size
    found = np.zeros((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            centre = [[x + 0.5, y + 0.5, x + 0.5, y + 0.5]]
            right, down = transform.apply(centre)[0, :2] * (cells.shape[1], cells.shape[0])
            if 0 <= right < cells.shape[1] and 0 <= down < cells.shape[0]:
                found[y, x] = cells[int(down), int(right)]
    return found


@pytest.mark.parametrize(
    ("fit", "kernel"),
    [("squash", "bicubic"), ("pad", "gaussian"), ("pad", "bilinear"), ("crop", "bicubic")],
)
@pytest.mark.parametrize("image_size", [(17, 53), (61, 23)])
def test_each_pixel_has_the_cell_that_it_lies_in(
    fit: Fit, kernel: Kernel, image_size: tuple[int, int]
) -> None:
    transform = Preprocessing(size=(32, 48), fit=fit, resample=kernel).transform(image_size)
    maps = make_maps(transform)
    expected = cell_by_cell(maps.heads[1], transform)
    np.testing.assert_array_equal(maps.on_image(head=1), expected)
    assert (expected == 0).any() == (fit == "crop"), "a crop alone leaves something unseen"
    mean = np.mean([maps.on_image(head=head) for head in range(3)], axis=0)
    np.testing.assert_allclose(maps.on_image(), mean, atol=1e-6)


def test_interpolated_as_pillow_does() -> None:
    transform = Preprocessing(size=(32, 48), fit="squash", resample="bicubic").transform((41, 97))
    maps = make_maps(transform)
    expected = stretch_map(maps.heads[0], (41, 97), smooth=True)
    np.testing.assert_allclose(maps.on_image(head=0, smooth=True), expected, atol=1e-5)
    np.testing.assert_allclose(maps.mean, maps.heads.mean(axis=0))


def test_padding_is_cut_off() -> None:
    """The lower half of the input is padding: a picture shows the upper half of the map."""
    transform = Preprocessing(size=(48, 48), fit="pad", resample="bilinear").transform((48, 96))
    heads = np.zeros((1, 6, 6), np.float32)
    heads[0, 3:] = 1
    heads[0, 0, 0] = 0.5
    found = AttentionMaps(heads, transform).on_image()
    assert found.shape == (48, 96)
    np.testing.assert_array_equal(found, np.pad(np.full((16, 16), 0.5), ((0, 32), (0, 80))))
    picture = np.zeros((48, 96, 3), np.uint8)
    assert overlay(picture, found).size == (96, 48)


@pytest.mark.parametrize("head", [-1, 3])
def test_a_head_that_is_not_there(head: int) -> None:
    transform = Preprocessing(size=(32, 48), fit="squash", resample="bicubic").transform((9, 9))
    with pytest.raises(ImageError, match=f"head: expected 0 to 2, found {head}"):
        make_maps(transform).on_image(head=head)
