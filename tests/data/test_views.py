"""Strong views depend on the seed alone and are altered as often as SimCLR's are."""

import pickle

import numpy as np
import pytest

from owlkit.data.view_recipes import simclr_recipe
from owlkit.data.views import ViewAugmentation

# A left half that is redder than the right one, in squares that a blur would wash out.
ROWS, COLUMNS = np.indices((64, 64))
PICTURE = np.zeros((64, 64, 3), np.uint8)
PICTURE[..., 0] = 60 + 120 * (COLUMNS < 32)
PICTURE[..., 1] = 40 + 100 * ((ROWS + COLUMNS) % 2)
PICTURE[..., 2] = 60


@pytest.fixture(scope="module")
def views() -> list[np.ndarray]:
    augment = ViewAugmentation(simclr_recipe(20))
    return [augment(PICTURE, seed=seed) for seed in range(400)]


def test_a_view_depends_on_its_seed(views) -> None:
    other = pickle.loads(pickle.dumps(ViewAugmentation(simclr_recipe(20))))
    for seed in (7, 3, 7, 399):
        np.testing.assert_array_equal(other(PICTURE, seed=seed), views[seed])
    assert all(view.shape == (20, 20, 3) and view.dtype == np.uint8 for view in views)
    assert len({view.tobytes() for view in views}) == len(views)
    assert PICTURE[0, 0].tolist() == [180, 40, 60], "the picture stays"


def test_a_fifth_is_grey(views) -> None:
    grey = sum(bool((view == view[..., :1]).all()) for view in views)
    assert 0.12 < grey / len(views) < 0.28


def test_jitter_can_be_turned_off() -> None:
    augment = ViewAugmentation(simclr_recipe(20, strength=0.0))
    plain = [augment(np.full((30, 40, 3), [90, 20, 50], np.uint8), seed=seed) for seed in range(60)]
    colours = {tuple(view[0, 0].tolist()) for view in plain}
    assert (90, 20, 50) in colours
    assert all(len(set(colour)) == 1 for colour in colours - {(90, 20, 50)}), "grey at most"


def test_crops_have_the_sizes_of_simclr() -> None:
    # The crop is seen by how much of a ramp from left to right is left.
    ramp = np.repeat(np.arange(0, 256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)
    augment = ViewAugmentation(simclr_recipe(64, strength=0.0))
    widths = [np.ptp(augment(ramp, seed=seed)[32, :, 0].astype(int)) for seed in range(200)]
    assert 40 < min(widths) < 110
    assert max(widths) > 225


def test_half_are_mirrored() -> None:
    ramp = np.repeat(np.arange(0, 256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)
    augment = ViewAugmentation(simclr_recipe(16, strength=0.0))
    views = [augment(ramp, seed=seed)[8, :, 0].astype(int) for seed in range(200)]
    assert 0.4 < np.mean([view[0] > view[-1] for view in views]) < 0.6
