"""Maps over photographs: the right cell at the right place, in the right colour."""

import numpy as np
import pytest
from PIL import Image

from owlkit.errors import ImageError
from owlkit.heatmaps import colour_values, outline, overlay, sheet, stretch_map


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


@pytest.mark.parametrize("name", ["inferno", "viridis"])
def test_colours_are_those_of_matplotlib(name: str) -> None:
    import matplotlib

    values = np.linspace(0, 1, 101)
    expected = matplotlib.colormaps[name](values)[:, :3] * 255
    # Straight lines between nine of its 256 colours.
    assert np.abs(colour_values(values, name) - expected).max() < 20  # type: ignore[arg-type]


def test_cells_are_stretched_whatever_their_shape() -> None:
    cells = np.arange(6.0).reshape(2, 3)
    stretched = stretch_map(cells, (8, 30))
    assert np.array_equal(stretched, cells.repeat(4, axis=0).repeat(10, axis=1))
    smooth = stretch_map([[0.0, 1.0]], (1, 20), smooth=True)[0]
    # Flat from the borders to the centres of the cells, straight between them.
    expected = np.interp(np.arange(20) + 0.5, [5, 15], [0, 1])
    assert np.allclose(smooth, expected, atol=1e-6)


def test_the_brightest_cell_is_where_the_map_is_largest() -> None:
    values = np.zeros((4, 6))
    values[1, 4] = 3.0
    image = grey(40, 60)
    drawn = np.asarray(overlay(image, values, alpha=0.5)).astype(int)
    dark, bright = (np.rint(0.5 * 128 + 0.5 * colour_values(v)) for v in (0.0, 1.0))
    assert (drawn[10:20, 40:50] == bright).all()
    rest = np.delete(drawn.reshape(-1, 3), np.flatnonzero(values.repeat(10, 0).repeat(10, 1)), 0)
    assert (rest == dark).all()
    assert (image == 128).all(), "the input is not changed"
    assert (np.asarray(overlay(image, values, alpha=0.0)) == 128).all()
    flat = np.asarray(overlay(image, np.ones((2, 2)), alpha=1.0))
    assert (flat == np.rint(colour_values(0.0))).all(), "equal values have no brightest"


def test_one_patch_does_not_hide_the_others() -> None:
    values = np.linspace(0, 1, 400).reshape(20, 20)
    spiked = values.copy()
    spiked[0, 0] = 1e6
    one, other = (np.asarray(overlay(grey(20, 20), each)).astype(int) for each in (values, spiked))
    assert np.abs(one - other)[1:].max() <= 3


def test_an_outline_is_the_border_of_the_mask() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[1:3, 1:3] = True
    mask[0, 3] = True
    drawn = np.asarray(outline(grey(40, 40), mask, colour=(255, 0, 0), line_width=2))
    red = (drawn == (255, 0, 0)).all(axis=2)
    expected = np.zeros((40, 40), dtype=bool)
    expected[10:30, 10:30] = True
    expected[12:28, 12:28] = False
    corner = np.zeros((40, 40), dtype=bool)
    corner[0:10, 30:40] = True
    corner[0:8, 32:40] = False  # nothing is known beyond the picture
    assert np.array_equal(red, expected | corner)


def test_a_sheet_shows_every_picture_under_its_title() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9), (200, 0, 200)]
    pictures = [Image.new("RGB", (40, 30), colour) for colour in colours]
    drawn = sheet(pictures, [f"head {n}" for n in range(5)], columns=3)
    pixels = np.asarray(drawn)
    places = [np.argwhere((pixels == colour).all(axis=2)) for colour in colours]
    assert all(len(place) == 30 * 40 for place in places)
    tops = [int(place[:, 0].min()) for place in places]
    assert tops[0] == tops[1] == tops[2] < tops[3] == tops[4]
    between = pixels[tops[0] + 30 : tops[3]]
    assert (between.min(axis=2) < 120).any(), "titles of the second row"
    wide = sheet(pictures * 3, [""] * 15)
    assert 1 < wide.width / wide.height < 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overlay(grey(4, 4), [1.0]), r"\[h, w\], found shape \[1\]"),
        (lambda: overlay(grey(4, 4), [[np.nan]]), "NaN or infinity"),
        (lambda: overlay(grey(4, 4), [[1.0]], alpha=2), "alpha in"),
        (lambda: overlay(grey(4, 4), [[1.0]], colormap="jet"), "found 'jet'"),  # type: ignore[arg-type]
        (lambda: outline(grey(4, 4), [[True]], line_width=0), "line_width"),
        (lambda: sheet([], []), "one or more pictures"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        call()
