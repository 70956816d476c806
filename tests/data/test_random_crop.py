from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owlkit.data.random_crop import crop_boxes, sample_crop

AREA, ASPECT = (0.3, 1.0), (0.75, 1.33)
SIDES = st.integers(1, 700)


def windows(height, width, count, seed=0, area=AREA, aspect=ASPECT):
    generator = np.random.default_rng(seed)
    drawn = [
        sample_crop(height, width, area=area, aspect=aspect, generator=generator)
        for _ in range(count)
    ]
    return np.array(drawn)


@given(SIDES, SIDES, st.integers(0, 2**32), st.floats(0.01, 1), st.floats(0.01, 1))
def test_window_is_inside_and_within_the_limits(height, width, seed, one, other):
    area = min(one, other), max(one, other)
    x0, y0, x1, y1 = windows(height, width, 1, seed, area)[0]
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    rows, columns = y1 - y0, x1 - x0
    if (rows, columns) != (height, width):
        share = rows * columns / (height * width)
        assert area[0] <= share <= area[1]
        # The aspect holds before the columns are rounded.
        assert rows * ASPECT[0] - 0.5 <= columns <= rows * ASPECT[1] + 0.5


@given(st.integers(20, 120), st.integers(0, 2**32))
def test_wide_pictures_are_never_whole(unit, seed):
    x0, _, x1, _ = windows(9 * unit, 16 * unit, 1, seed)[0]
    assert x1 - x0 <= 9 * unit * 1.33 + 0.5 < 16 * unit
    _, y0, _, y1 = windows(16 * unit, 9 * unit, 1, seed)[0]
    assert y1 - y0 <= (9 * unit + 0.5) / 0.75 < 16 * unit


def test_a_picture_that_no_crop_fits_is_whole():
    # The largest part of aspect 1.33 is 13 % of a panorama.
    assert windows(100, 1000, 1).tolist() == [[0, 0, 1000, 100]]
    assert windows(1000, 90, 1).tolist() == [[0, 0, 90, 1000]]


def expected_area(height, width):
    """Mean share of area: every aspect of a fine grid, every height that fits it, equally often."""
    shares = []
    for ratio in np.linspace(*ASPECT, 401):
        rows = np.arange(1, height + 1)
        share = rows * np.rint(rows * ratio) / (height * width)
        fits = (np.rint(rows * ratio) <= width) & (share >= AREA[0]) & (share <= AREA[1])
        shares.append(share[fits].mean())
    return np.mean(shares)


@pytest.mark.parametrize(("height", "width"), [(400, 400), (480, 640), (640, 427), (360, 640)])
def test_mean_area(height, width):
    x0, y0, x1, y1 = windows(height, width, 4000).T
    shares = (x1 - x0) * (y1 - y0) / (height * width)
    # Four standard errors of the mean, and 0.002 for limits that rounding moves by one row.
    tolerance = 4 * shares.std() / len(shares) ** 0.5 + 2e-3
    assert shares.mean() == pytest.approx(expected_area(height, width), abs=tolerance)
    assert shares.min() < 0.32


def test_places_are_uniform_but_for_the_last():
    # Twelve of sixteen columns: the windows start at 0, 1, 2 or 3, never at 4.
    x0, y0, x1, y1 = windows(12, 16, 4000, area=(0.74, 0.76), aspect=(1, 1)).T
    assert {*(x1 - x0)} == {*(y1 - y0)} == {12}
    counts = np.bincount(x0, minlength=5)
    assert counts[4] == 0
    assert counts[:4] == pytest.approx([1000] * 4, abs=4 * 750**0.5)


@pytest.mark.parametrize(
    ("least", "most", "shares"),
    [
        # 12 rows are too few, for 144 < 148; they become 13.
        (148, 400, {13: 2 / 9, **dict.fromkeys(range(14, 21), 1 / 9)}),
        # 15 rows are too many, for 225 > 222; they become 14.
        (144, 222, {12: 1 / 4, 13: 1 / 4, 14: 2 / 4}),
    ],
)
def test_rounding_is_made_up_for(least, most, shares):
    _, y0, _, y1 = windows(20, 20, 3000, area=(least / 400, most / 400), aspect=(1, 1)).T
    counts = np.bincount(y1 - y0, minlength=21)
    for rows, count in enumerate(counts):
        assert count / 3000 == pytest.approx(shares.get(rows, 0), abs=0.035)
    assert set(np.flatnonzero(counts)) == set(shares)


COORDINATE = st.integers(0, 40)


@given(
    st.lists(st.tuples(*[COORDINATE] * 4), max_size=6),
    st.tuples(*[COORDINATE] * 4),
    st.sampled_from(["0", "0.3", "0.5", "0.6", "1"]),
)
def test_boxes_are_kept_by_remaining_area(corners, window, limit):
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    x0, x1 = sorted((window[0], window[2] + 41))
    y0, y1 = sorted((window[1], window[3] + 41))
    expected = []
    for number, (a, b, c, d) in enumerate(boxes):
        left = max(a, x0), max(b, y0), min(c, x1), min(d, y1)
        inside = max(0, left[2] - left[0]) * max(0, left[3] - left[1])
        if inside > 0 and Fraction(inside, (c - a) * (d - b)) >= Fraction(limit):
            expected.append([left[0] - x0, left[1] - y0, left[2] - x0, left[3] - y0, number])
    rows = np.array([[*box, number] for number, box in enumerate(boxes)], float).reshape(-1, 5)
    before = rows.copy()
    found = crop_boxes(rows, (x0, y0, x1, y1), min_remaining_area=float(limit))
    assert found.tolist() == expected
    assert (rows == before).all()
