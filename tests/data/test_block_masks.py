"""Masks hide what was asked for, in the rectangles of DINOv2."""

import math
import random

import numpy as np
import pytest

from owlkit.data.block_masks import BlockMasks
from owlkit.errors import ConfigError

GRID = (14, 14)


def dinov2_mask(target: int) -> np.ndarray:
    """dinov2/data/masking.py, patch by patch."""
    mask = np.zeros(GRID, dtype=bool)
    hidden = 0
    while hidden < target:
        most, added = target - hidden, 0
        for _ in range(10):
            area = random.uniform(4, most)
            aspect = math.exp(random.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if width < GRID[1] and height < GRID[0]:
                top = random.randint(0, GRID[0] - height)
                left = random.randint(0, GRID[1] - width)
                fresh = height * width - mask[top : top + height, left : left + width].sum()
                if 0 < fresh <= most:
                    for row in range(top, top + height):
                        for column in range(left, left + width):
                            added += not mask[row, column]
                            mask[row, column] = True
                if added:
                    break
        if not added:
            break
        hidden += added
    return mask


def edges(masks: np.ndarray) -> float:
    """Mean number of borders between a hidden and a visible patch."""
    return sum(np.count_nonzero(np.diff(masks, axis=axis)) for axis in (1, 2)) / len(masks)


@pytest.mark.parametrize("target", [19, 58, 98])
def test_blocks_are_those_of_dinov2(target: int) -> None:
    share = (target + 0.5) / 196
    draw = BlockMasks(16, probability=1.0, ratio=(share, share))
    found = draw(600, GRID, np.random.default_rng(0)).reshape(-1, *GRID)
    random.seed(0)
    wanted = np.stack([dinov2_mask(target) for _ in range(600)])
    hidden, expected = (masks.sum((1, 2)) for masks in (found, wanted))
    assert hidden.max() == target
    assert hidden.mean() == pytest.approx(expected.mean(), abs=0.15)
    assert hidden.min() > target - 10
    # The standard error of either mean is about 0.3 to 0.5 of some 25 to 70 borders.
    assert edges(found) == pytest.approx(edges(wanted), rel=0.05)
    # Nothing but the border itself is hidden more or less often for where it lies.
    frequency = found.mean(0)
    np.testing.assert_allclose(frequency, frequency[::-1, ::-1], atol=0.13)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_half_the_pictures_are_masked_with_shares_spread_evenly(count: int) -> None:
    masks = BlockMasks(2)(count, (32, 32), np.random.default_rng(count))
    hidden = masks.sum(1)
    assert (masks.shape, masks.dtype) == ((count, 1024), np.dtype(bool))
    assert np.count_nonzero(hidden) == count // 2
    cells = np.linspace(0.1, 0.5, count // 2 + 1) * 1024
    for number, low, high in zip(
        sorted(hidden)[(count + 1) // 2 :], cells[:-1], cells[1:], strict=True
    ):
        assert low - 30 < number <= high, "a mask falls short of its target by a few patches"
    if count == 64:
        order = np.flatnonzero(hidden)
        assert (np.diff(order) > 1).any(), "masked pictures stand anywhere"
        assert (np.diff(hidden[order]) < 0).any(), "and so do their shares"


def test_draws_depend_on_the_generator_alone() -> None:
    draw = BlockMasks(8, probability=0.75)
    one, same, other = (draw(8, (12, 6), np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert np.count_nonzero(one.any(1)) == 6


def test_what_cannot_be_is_refused() -> None:
    assert BlockMasks(14).grid(518) == (37, 37)
    with pytest.raises(ConfigError, match="a multiple of the patch size 14, found 225"):
        BlockMasks(14).grid(225)
    for wrong in ({"probability": 1.5}, {"ratio": (0.5, 0.1)}, {"min_patches": 0}):
        with pytest.raises(ConfigError, match=r"masks: expected.*found BlockMasks\("):
            BlockMasks(14, **wrong)
