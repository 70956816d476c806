import itertools
import math

import numpy as np
import pytest

from owlkit.data.scenes import COLOURS, SHAPES
from owlkit.data.scenes.shapes import area, draw, extent, place

SIZE = 36
SAMPLES = 10


def slow_samples(contours, size: int) -> np.ndarray:
    """Even-odd rule for 10 x 10 points in each pixel, one edge after another."""
    points = (np.arange(size * SAMPLES) + 0.5) / SAMPLES
    x, y = np.meshgrid(points, points)
    inside = np.zeros(x.shape, bool)
    for contour in contours:
        for (x0, y0), (x1, y1) in zip(contour, np.roll(contour, -1, axis=0), strict=True):
            if y0 != y1:
                crosses = (y0 > y) != (y1 > y)
                inside ^= crosses & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return inside


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("centre", "radius", "turn"),
    [
        pytest.param((16.3, 19.8), 13.4, 0.7, id="turned, between pixels"),
        pytest.param((4.1, 32.7), 9.0, -2.4, id="partly outside"),
    ],
)
def test_coverage_and_extent_match_slow_sampling(shape, centre, radius, turn):
    contours = place(shape, centre=centre, radius=radius, turn=turn, mirrored=True)
    inside = slow_samples(contours, SIZE)
    slow = inside.reshape(SIZE, SAMPLES, SIZE, SAMPLES).mean(axis=(1, 3))
    fast, box = draw(contours, SIZE)
    # The fast one has 64 samples a pixel and counts those on the outline as inside.
    assert np.abs(fast - slow).max() <= 0.25
    assert fast[slow == 1].min() > 0.9
    assert fast.sum() == pytest.approx(slow.sum(), rel=0.05)
    if extent(contours).min() >= 0 and extent(contours).max() <= SIZE:
        assert area(contours) == pytest.approx(slow.sum(), rel=0.01)

    rows, columns = np.nonzero(inside)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SAMPLES
    # Steps of 1/8 and of 1/10 pixel, and both miss some of a tip.
    np.testing.assert_allclose(box, found, atol=0.25)
    np.testing.assert_array_equal(box * 8, (box * 8).round())


@pytest.mark.parametrize("shape", SHAPES)
def test_radius_is_half_the_longer_side(shape):
    x0, y0, x1, y1 = extent(place(shape, centre=(5, 7), radius=3, turn=0, mirrored=False))
    assert max(x1 - x0, y1 - y0) == pytest.approx(6)
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((5, 7))


def centre_of_gravity(covered: np.ndarray) -> tuple[float, float]:
    y, x = np.mgrid[: len(covered), : len(covered)] + 0.5
    return (covered * x).sum() / covered.sum(), (covered * y).sum() / covered.sum()


def test_turn_is_clockwise_and_mirror_comes_first():
    def centroid(shape: str, turn: float, mirrored: bool) -> tuple[float, float]:
        contours = place(shape, centre=(24, 24), radius=15, turn=turn, mirrored=mirrored)
        return centre_of_gravity(draw(contours, 48)[0])

    # A triangle points up and is heavy below; a quarter turn clockwise makes its tip point right.
    assert centroid("triangle", 0, False)[1] > 26
    assert centroid("triangle", math.pi / 2, False)[0] < 22
    assert centroid("crescent", 0, False)[0] < 22
    assert centroid("crescent", 0, True)[0] > 26
    assert centroid("crescent", math.pi / 2, True)[1] > 26


def silhouettes(shape: str, radii: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Coverages with their centre of gravity in the middle [R * T, 1600]."""
    masks = []
    for radius, turn in itertools.product(radii, turns):
        contours = place(shape, centre=(20, 20), radius=radius, turn=turn, mirrored=False)
        shift = 20 - np.array(centre_of_gravity(draw(contours, 40)[0]))
        masks.append(draw([contour + shift for contour in contours], 40)[0].ravel())
    return np.stack(masks)


def best_overlap(one: np.ndarray, others: np.ndarray) -> float:
    return float((np.minimum(one, others).sum(1) / np.maximum(one, others).sum(1)).max())


def test_shapes_are_distinct_at_16_pixels_however_turned_and_sized():
    # A square would reach 0.84 with the circle.
    radii, turns = np.linspace(5, 11, 9), np.deg2rad(np.arange(0, 360, 15))
    small = {shape: silhouettes(shape, np.array([8.0]), np.array([0.0]))[0] for shape in SHAPES}
    every = {shape: silhouettes(shape, radii, turns) for shape in SHAPES}
    for shape, other in itertools.permutations(SHAPES, 2):
        assert best_overlap(small[shape], every[other]) < 0.75, (shape, other)
    assert all(best_overlap(small[shape], every[shape]) > 0.9 for shape in SHAPES)


def test_colours_are_distinct():
    for (name, colour), (other, second) in itertools.combinations(COLOURS.items(), 2):
        assert math.dist(colour, second) > 120, (name, other)
