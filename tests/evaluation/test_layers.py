"""The grid of linear layers: what they see, and which is taken."""

from pathlib import Path

import numpy as np
import pytest
import torch

from owlkit.data.class_images import ClassImages, ImageFiles
from owlkit.encoders import VisionTower
from owlkit.errors import TokenError
from owlkit.evaluation.encoder import ClassFeatures
from owlkit.evaluation.features import Encoder
from owlkit.evaluation.layers import LAYER_RATES, LayerInput, layers_probe, measure_layers
from owlkit.evaluation.probes import LinearSchedule, fit_linear
from owlkit.evaluation.probes.choice import hold_out
from owlkit.geometry import Preprocessing
from owlkit.images import load_image
from tests.evaluation.small_encoder import make_pictures

SIZE = Preprocessing(size=(32, 32), fit="squash", resample="bicubic")
LAYERS, WIDTH = 4, 3


def tower(depth: int) -> VisionTower:
    torch.manual_seed(0)
    sizes = {"patch_size": 8, "embed_dim": 32, "depth": depth, "num_heads": 2}
    return VisionTower("vit_base_patch16_224", image_size=32, overrides=sizes)


def test_the_authors_rates() -> None:
    expected = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1]
    assert pytest.approx(expected) == LAYER_RATES


@pytest.mark.parametrize("depth", [2, 5])
def test_features_are_those_of_timm(depth: int, tmp_path: Path) -> None:
    paths = make_pictures(tmp_path, 3)
    model = tower(depth)
    found = Encoder(model, preprocessing=SIZE).images(ImageFiles(tuple(paths)), "layers").features  # type: ignore[arg-type]
    pixels = torch.stack([torch.from_numpy(SIZE(load_image(path))[0]) for path in paths])
    count = min(4, depth)
    with torch.no_grad():
        layers = model.model.eval().get_intermediate_layers(
            pixels, n=count, return_prefix_tokens=True, norm=True
        )
    for blocks in (1, count):
        # As create_linear_input of dinov2/eval/linear.py.
        seen = torch.cat([prefix[:, 0] for _, prefix in layers[-blocks:]], dim=-1)
        for patches in (False, True):
            expected = torch.cat([seen, layers[-1][0].mean(dim=1)], dim=-1) if patches else seen
            one = LayerInput(blocks, patches).cut(found, layers=count, width=32)
            torch.testing.assert_close(one, expected)


def rows(count: int, seed: int, *, telling: slice) -> ClassFeatures:
    """Noise, but for some columns, which tell the class."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, (LAYERS + 1) * WIDTH, generator=generator)
    labels = torch.arange(count) % 3
    features[:, telling] = 4 * torch.eye(3)[labels] + torch.randn(count, 3, generator=generator)
    return ClassFeatures(features, labels, tuple("abc"))


@pytest.mark.parametrize(
    ("telling", "expected"),
    [
        (slice(0, 3), {(4, False), (4, True)}),
        (slice(9, 12), {(1, False), (1, True), (4, False), (4, True)}),
        (slice(12, 15), {(1, True), (4, True)}),
    ],
)
def test_the_best_of_the_grid_is_taken(telling: slice, expected: set[tuple[int, bool]]) -> None:
    train, test = rows(200, 0, telling=telling), rows(100, 1, telling=telling)
    schedule = LinearSchedule("sgd", (1e-4, 0.1), (0.0,), epochs=5, batch_size=64)
    found = layers_probe(train, test, layers=LAYERS, schedule=schedule, seed=2)
    learn, held = hold_out(train.labels, 0.2, 2)
    grid = {}
    for blocks in (1, 4):
        for patches in (False, True):
            columns = slice((4 - blocks) * WIDTH, (5 if patches else 4) * WIDTH)
            for rate in (1e-4 / 4, 0.1 / 4):  # for a quarter of the authors' batch
                one = LinearSchedule("sgd", (rate,), (0.0,), epochs=5, batch_size=64)
                seen = train.features[:, columns]
                (fitted,) = fit_linear(seen[learn], train.labels[learn], one, classes=3, seed=2)
                hits = fitted.scores(seen[held]).argmax(dim=1) == train.labels[held]
                (whole,) = fit_linear(seen, train.labels, one, classes=3, seed=2)
                right = whole.scores(test.features[:, columns]).argmax(dim=1) == test.labels
                grid[blocks, patches, rate] = (float(hits.float().mean()), right.float().mean())
    best = max(grid, key=lambda key: grid[key][0])
    assert best[:2] in expected
    assert (found.input.blocks, found.input.patches) == best[:2]
    assert found.accuracy.learning_rate == pytest.approx(best[2])
    assert found.accuracy.top1 == pytest.approx(float(grid[best][1]))
    assert found.accuracy.top1 > 0.85
    metrics = found.metrics()
    assert metrics["layers_blocks"] == best[0]
    assert metrics["layers_patches"] == float(best[1])


def test_one_image_a_class(tmp_path: Path) -> None:
    """Nothing can be held out; an answer there is."""
    files = ImageFiles(tuple(make_pictures(tmp_path, 3)))
    images = ClassImages(tuple("abc"), np.arange(3), files)
    found = measure_layers(Encoder(tower(2), preprocessing=SIZE), images, images)
    assert 0 <= found["layers_top1"] <= 1
    assert found["layers_blocks"] == 1
    backbone = Encoder(VisionTower("resnet18", image_size=32), preprocessing=SIZE)
    with pytest.raises(TokenError, match="layers probe needs a vision transformer"):
        measure_layers(backbone, images, images)
