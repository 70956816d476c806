"""Attention maps, masks and boxes against the authors' way and a slow one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from owlkit.encoders import VisionTower
from owlkit.errors import ConfigError, TokenError
from owlkit.evaluation.attention import find_objects, fitted_size, mass_mask, read_attention
from owlkit.geometry import Preprocessing
from owlkit.images import load_image
from tests.evaluation.small_encoder import make_dual_encoder


def dino_mask(attention: np.ndarray, threshold: float) -> np.ndarray:
    """As visualize_attention.py has it: ascending, the last ones whose mass exceeds the rest."""
    values = torch.from_numpy(attention.reshape(len(attention), -1)).double()
    val, idx = torch.sort(values)
    val /= torch.sum(val, dim=1, keepdim=True)
    th_attn = torch.cumsum(val, dim=1) > (1 - threshold)
    idx2 = torch.argsort(idx)
    for head in range(len(attention)):
        th_attn[head] = th_attn[head][idx2[head]]
    return th_attn.reshape(attention.shape).numpy()


@pytest.mark.parametrize("mass", [0.05, 0.3, 0.6, 0.95])
def test_masks_are_those_of_the_authors(mass: float) -> None:
    maps = np.random.default_rng(0).dirichlet(np.full(35, 0.3), 6).reshape(6, 5, 7)
    maps = maps.astype(np.float32)
    mask = mass_mask(maps, mass)
    assert np.array_equal(mask, dino_mask(maps, mass))
    for values, inside in zip(maps.astype(float), mask, strict=True):
        assert values[inside].sum() >= mass * values.sum() * (1 - 1e-9)
        assert values[inside].sum() - values[inside].min() < mass * values.sum()


def test_the_whole_mass_and_no_mass() -> None:
    maps = np.array([[[0.0, 2.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]], dtype=np.float32)
    assert mass_mask(maps, 1.0).sum(axis=(1, 2)).tolist() == [3, 1]
    assert mass_mask(maps[0], 0.5).tolist() == [[False, True], [False, False]]
    for mass in (0.0, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="mass"):
            mass_mask(maps, mass)


def parts_one_by_one(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """Connected parts, found cell by cell."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    parts = []
    while left:
        waiting, part = [left.pop()], set()
        while waiting:
            y, x = waiting.pop()
            part.add((y, x))
            near = {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & left
            left -= near
            waiting += near
        parts.append(part)
    return parts


@pytest.mark.parametrize("seed", range(5))
def test_boxes_as_found_cell_by_cell(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.random((6, 9), dtype=np.float32)
    mask = values > 0.6
    # A quarter of the width of each cell is 5 pixels of the image, a cell of the height 10.
    transform = Preprocessing(size=(48, 72), fit="squash", resample="bicubic").transform((60, 180))
    found = find_objects(values, mask, transform, min_area=2 / 54)
    expected = []
    for part in parts_one_by_one(mask):
        if len(part) >= 2:
            rows, columns = zip(*part, strict=True)
            corners = (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
            box = np.array(corners) * (20, 10, 20, 10)
            mass = sum(float(values[cell]) for cell in part) / float(values.sum())
            expected.append((-len(part), *box.tolist(), mass))
    rows = [(*map(float, box), float(s)) for box, s in zip(found.boxes, found.scores, strict=True)]
    assert sorted(rows) == [
        pytest.approx(each[1:]) for each in sorted(expected, key=lambda e: e[1:])
    ]
    areas = {tuple(np.round(each[1:5]).tolist()): each[0] for each in expected}
    order = [areas[tuple(np.round(box).tolist())] for box in found.boxes]
    assert order == sorted(order), "the largest first"


def test_no_object() -> None:
    transform = Preprocessing(size=(8, 8), fit="squash", resample="bicubic").transform((50, 60))
    values = np.zeros((2, 2), dtype=np.float32)
    assert len(find_objects(values, values > 0, transform)) == 0


def test_an_image_is_seen_whole_in_its_own_aspect_ratio(data_dir: Path) -> None:
    model = make_dual_encoder(None)
    image = load_image(data_dir / "samples" / "dog.jpg")  # 534 x 800
    found = read_attention(model.vision.train(), model.preprocessing, image, size=64)
    assert model.vision.training
    assert found.heads.shape == (2, 7, 10)
    assert found.transform.invert(np.array([[0, 0, 1, 1]])).tolist() == [[0, 0, 800, 534]]
    squash = Preprocessing(size=(56, 80), fit="squash", resample="bicubic")
    pixels = torch.from_numpy(squash(image)[0])[None]
    with torch.no_grad():
        expected = model.vision.eval().attention_maps(pixels)[0]
    assert np.array_equal(found.heads, expected.numpy())
    assert (found.heads.sum(axis=(1, 2)) < 1).all(), "the class token keeps some"
    assert np.allclose(found.mean, expected.mean(dim=0))
    # Twice the native four patches.
    native = read_attention(model.vision, model.preprocessing, image[:, :534])
    assert native.heads.shape == (2, 8, 8)


def test_sizes_are_whole_patches() -> None:
    assert fitted_size((500, 500), 480, 16) == (480, 480)
    assert fitted_size((375, 500), 224, 14) == (196, 252)
    assert fitted_size((10, 100_000), 224, 16) == (16, 22400)


def test_what_has_no_attention_is_refused() -> None:
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    preprocessing = Preprocessing(size=(32, 32), fit="crop", resample="bicubic")
    with pytest.raises(TokenError, match="vision transformer"):
        read_attention(VisionTower("resnet18", image_size=32), preprocessing, image)
    with pytest.raises(ConfigError, match="expected at least 8"):
        read_attention(make_dual_encoder(None).vision, preprocessing, image, size=7)
