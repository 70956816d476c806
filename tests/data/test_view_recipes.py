"""Views of real photographs are altered as often, and as much, as the published methods say."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from owlkit.data.image_sources import read_images
from owlkit.data.view_recipes import byol_recipes, dino_recipes, mae_recipe
from owlkit.data.views import ViewAugmentation, ViewRecipe
from owlkit.errors import ConfigError

COUNT = 400
WHOLE = {"global_area": (1.0, 1.0), "local_area": (1.0, 1.0), "aspect": (1.0, 1.0)}
STILL = {"flip": 0.0, "jittered": 0.0, "grey": 0.0, **WHOLE}
SHARP = {"blur": (0.0, 0.0, 0.0), "solarize": (0.0, 0.0)}


@pytest.fixture(scope="module")
def photographs(data_dir: Path) -> list[np.ndarray]:
    """Square ones in colours of which none is alone in its channel's extremes."""
    source = read_images(data_dir / "captions" / "images")
    pictures = (source.read(row) for row in range(60))
    return [picture for picture in pictures if np.ptp(picture.astype(int), axis=2).mean() > 20]


def rate(
    photographs: list[np.ndarray],
    recipe: ViewRecipe,
    is_altered: Callable[[np.ndarray, np.ndarray], bool],
) -> float:
    """How often views differ from plain ones in some way."""
    augment = ViewAugmentation(recipe)
    altered = 0
    for seed in range(COUNT):
        photograph = photographs[seed % len(photographs)]
        side = (recipe.size, recipe.size)
        plain = cv2.resize(photograph, side, interpolation=cv2.INTER_AREA)
        altered += bool(is_altered(augment(photograph, seed=seed), plain))
    return altered / COUNT


def differs(view: np.ndarray, plain: np.ndarray) -> bool:
    return not np.array_equal(view, plain)


def is_solarized(view: np.ndarray, plain: np.ndarray) -> bool:
    if np.array_equal(view, plain):
        return False
    np.testing.assert_array_equal(view, np.where(plain >= 128, 255 - plain, plain))
    return True


def is_mirrored(view: np.ndarray, plain: np.ndarray) -> bool:
    if np.array_equal(view, plain):
        return False
    np.testing.assert_array_equal(view, plain[:, ::-1])
    return True


def is_grey(view: np.ndarray, plain: np.ndarray) -> bool:
    return bool((view == view[..., :1]).all())


# Three standard deviations of a share of 400 are at most 0.075.
def test_each_step_comes_as_often_as_in_dino(photographs: list[np.ndarray]) -> None:
    first, _, local = dino_recipes(local_crops=1, **STILL)
    # A sigma of less than about 0.2 leaves most photographs as they are.
    assert rate(photographs, first, differs) > 0.9
    assert rate(photographs, local, differs) == pytest.approx(0.47, abs=0.08)
    _, second = dino_recipes(local_crops=0, **STILL, solarize=(0.0, 0.0))
    assert rate(photographs, second, differs) == pytest.approx(0.1, abs=0.05)
    _, second = dino_recipes(local_crops=0, **STILL, blur=(1.0, 0.0, 0.5))
    assert rate(photographs, second, is_solarized) == pytest.approx(0.2, abs=0.06)
    for name, alters, share in (
        ("flip", is_mirrored, 0.5),
        ("grey", is_grey, 0.2),
        ("jittered", differs, 0.8),
    ):
        for recipe in set(dino_recipes(**{**STILL, name: share}, **SHARP)):
            assert rate(photographs, recipe, alters) == pytest.approx(share, abs=0.075)


def test_recipes_have_the_published_numbers() -> None:
    first, second, *local = dino_recipes()
    assert (first.size, first.area, first.blur, first.solarize) == (224, (0.4, 1.0), 1.0, 0.0)
    assert (second.size, second.area, second.blur, second.solarize) == (224, (0.4, 1.0), 0.1, 0.2)
    assert len(local) == 8
    assert len(set(local)) == 1
    assert (local[0].size, local[0].area, local[0].blur) == (96, (0.05, 0.4), 0.5)
    for recipe in (first, second, local[0]):
        assert recipe.jitter == (0.4, 0.4, 0.2, 0.1)
        assert (recipe.flip, recipe.jittered, recipe.grey) == (0.5, 0.8, 0.2)
    assert [(view.area, view.blur, view.solarize) for view in byol_recipes(64)] == [
        ((0.08, 1.0), 1.0, 0.0),
        ((0.08, 1.0), 0.1, 0.2),
    ]
    mae = mae_recipe(224)
    # A 4:3 photograph of 268 x 201 px; a crop of a fifth, 4:3 the other way, is 78 px wide.
    assert mae_recipe(78).pixels_needed == pytest.approx(78 * (16 / 9 / 0.2) ** 0.5, abs=1)
    assert (mae.area, mae.flip, mae.jittered, mae.grey, mae.blur) == ((0.2, 1.0), 0.5, 0, 0, 0)


def test_brightness_changes_by_as_much_as_asked(photographs: list[np.ndarray]) -> None:
    # Half as bright, so that nothing is cut off at white.
    photograph = photographs[0] // 2
    augment = ViewAugmentation(
        ViewRecipe(
            64, area=(1, 1), aspect=(1, 1), jitter=(0.4, 0, 0, 0), jittered=1, grey=0, blur=0
        )
    )
    factors = [augment(photograph, seed=seed).mean() / photograph.mean() for seed in range(200)]
    assert 0.58 < min(factors) < 0.63
    assert 1.37 < max(factors) < 1.42


def test_crops_are_those_of_torchvision() -> None:
    """Their area and aspect, told from a picture of its own coordinates."""
    height, width, size = 200, 250, 16
    rows, columns = np.indices((height, width))
    picture = np.stack([columns, rows, rows], axis=2).astype(np.uint8)
    recipe = ViewRecipe(size, area=(0.05, 0.4), flip=0, jittered=0, grey=0, blur=0)
    augment = ViewAugmentation(recipe)

    def sides(view: np.ndarray) -> tuple[float, float]:
        across, down = view[:, :, 0].mean(0), view[:, :, 1].mean(1)
        return tuple(float(np.ptp(line)) * size / (size - 1) for line in (down, across))

    found = np.array([sides(augment(picture, seed=seed)) for seed in range(600)])
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    wanted = np.array(
        [RandomResizedCrop.get_params(image, [0.05, 0.4], [3 / 4, 4 / 3])[2:] for _ in range(600)]
    )
    for measure in (np.prod, lambda pair: np.log(pair[1] / pair[0])):
        samples = [[measure(pair) for pair in pairs] for pairs in (found, wanted)]
        assert ks_2samp(*samples).pvalue > 0.01


def test_wrong_numbers_are_refused() -> None:
    for wrong in ({"area": (0.5, 0.2)}, {"grey": 1.2}, {"size": 0}, {"aspect": (0, 1)}):
        with pytest.raises(ConfigError, match=r"view: expected.*found ViewRecipe\("):
            ViewRecipe(**{"size": 32, **wrong})
