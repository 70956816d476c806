"""Crops depend on seed and index alone, come in the promised order, and make the batch they say."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from owlkit.data.block_masks import BlockMasks
from owlkit.data.class_images import ClassImages, ImageArray
from owlkit.data.crops import CropCollator, CropExamples
from owlkit.data.image_sources import ImageFiles, read_images
from owlkit.data.loader import BatchPlan, build_loader
from owlkit.data.multi_crop import Crops, LateViews
from owlkit.data.view_recipes import dino_recipes, mae_recipe
from owlkit.errors import ConfigError, DatasetError
from owlkit.structures import CropBatch

RECIPES = dino_recipes(global_size=16, local_size=8, local_crops=3, jittered=0.0, solarize=(0, 0))


@pytest.fixture
def source(tmp_path: Path) -> ImageFiles:
    """Seven pictures, number i in 20 i red and speckled."""
    for number in range(7):
        image = np.zeros((40, 30, 3), np.uint8)
        image[..., 1] = np.random.default_rng(number).integers(120, size=(40, 30))
        image[..., 2] = 20 * number
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    return read_images(tmp_path)


def number_of(example: Crops) -> int:
    return int(Path(example.source).stem)


def assert_same(one: CropBatch, other: CropBatch) -> None:
    assert (one.sources, one.corrupt) == (other.sources, other.corrupt)
    for name in ("global_crops", "local_crops", "masks"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_an_example_is_the_crops_of_one_picture(source: ImageFiles) -> None:
    examples = CropExamples(source, RECIPES)
    coloured = 0
    for index in range(21):
        example = examples[index]
        assert example.global_crops.shape == (2, 16, 16, 3)
        assert example.local_crops.shape == (3, 8, 8, 3)
        assert (example.number, example.corrupt) == (index, ())
        for view in (*example.global_crops, *example.local_crops):
            red = 20 * number_of(example)
            grey = bool((view == view[..., :1]).all())
            assert grey or (np.abs(view[..., 0].astype(int) - red) <= 1).all()
            coloured += not grey
        views = [view.tobytes() for view in (*example.global_crops, *example.local_crops)]
        assert len(set(views)) == 5, "each crop is another one"
    assert coloured / 105 == pytest.approx(0.8, abs=0.13)
    alone = CropExamples(source, [mae_recipe(16)], global_crops=1)[0]
    assert alone.global_crops.shape == (1, 16, 16, 3)
    assert alone.local_crops is None


def test_an_example_depends_on_seed_and_index_alone(source: ImageFiles) -> None:
    first = CropExamples(source, RECIPES, seed=3)
    forward = [first[index] for index in range(20)]
    again = pickle.loads(pickle.dumps(first))
    for index in reversed(range(20)):
        assert again[index].source == forward[index].source
        np.testing.assert_array_equal(again[index].global_crops, forward[index].global_crops)
        np.testing.assert_array_equal(again[index].local_crops, forward[index].local_crops)
    other = CropExamples(source, RECIPES, seed=4)
    assert [other[index].source for index in range(20)] != [one.source for one in forward]


def test_each_picture_comes_once_an_epoch_and_unreadable_ones_are_replaced(
    source: ImageFiles, caplog: pytest.LogCaptureFixture
) -> None:
    examples = CropExamples(source, RECIPES)
    numbers = [number_of(examples[index]) for index in range(21)]
    epochs = [numbers[start : start + 7] for start in range(0, 21, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    Path(source.where(2)).write_bytes(b"no picture")
    found = [examples[index] for index in range(21)]
    for example, number in zip(found, numbers, strict=True):
        replaced = number == 2
        assert bool(example.corrupt) == replaced
        assert set(example.corrupt) <= {source.where(2)}
        assert number_of(example) != 2
        assert replaced or number_of(example) == number
    assert len(caplog.records) == 1
    for row in range(7):
        Path(source.where(row)).unlink()
    with pytest.raises(DatasetError, match="found 100 one after another"):
        examples[0]
    with pytest.raises(DatasetError, match="expected at least one image to learn from"):
        CropExamples(ImageFiles(()), RECIPES)


def test_labels_are_not_needed() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 12, 12, 3), dtype=np.uint8)
    classes = ClassImages(("owl",), np.zeros(5, np.int64), ImageArray(Path("x.npz"), pixels))
    examples = CropExamples(classes, RECIPES)
    assert {examples[index].source for index in range(5)} == {f"x.npz[{row}]" for row in range(5)}


def test_the_end_phase_has_views_of_its_own(source: ImageFiles) -> None:
    late = LateViews(dino_recipes(global_size=24, local_size=12, local_crops=2), from_example=6)
    examples = CropExamples(source, RECIPES, late=late)
    plain = CropExamples(source, RECIPES)
    sizes = [
        (examples[index].global_crops.shape[1], examples[index].local_crops.shape[:2])
        for index in (5, 6, 20)
    ]
    assert sizes == [(16, (3, 8)), (24, (2, 12)), (24, (2, 12))]
    np.testing.assert_array_equal(examples[5].local_crops, plain[5].local_crops)
    assert examples[8].source == plain[8].source
    for recipes, options in (
        (RECIPES[:1], {}),
        (RECIPES, {"global_crops": 3}),
        (RECIPES, {"global_crops": 0}),
        (RECIPES, {"late": LateViews(RECIPES[1:], 4)}),
    ):
        with pytest.raises(ConfigError, match="global crops of one size first"):
            CropExamples(source, recipes, **options)


def test_large_photographs_are_decoded_no_larger_than_needed(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.jpg"), np.full((1200, 1600, 3), 80, np.uint8))
    sizes = []

    class Watched(ImageFiles):
        def read(self, index: int, *, at_least: int | None = None) -> np.ndarray:
            sizes.append(super().read(index, at_least=at_least).shape)
            return super().read(index, at_least=at_least)

    source = Watched(read_images(tmp_path).paths)
    CropExamples(source, dino_recipes())[0]
    CropExamples(source, dino_recipes(global_size=32, local_size=16))[0]
    assert sizes == [(600, 800, 3), (150, 200, 3)]


def test_examples_become_a_batch(source: ImageFiles) -> None:
    Path(source.where(2)).write_bytes(b"no picture")
    examples = [CropExamples(source, RECIPES)[index] for index in range(7)]
    batch = CropCollator(BlockMasks(4), seed=1)(examples)
    assert (len(batch), batch.images_read) == (7, 7 + len(batch.corrupt))
    assert set(batch.corrupt) == {source.where(2)}
    assert batch.global_crops.shape == (7, 2, 3, 16, 16)
    assert batch.local_crops.shape == (7, 3, 3, 8, 8)
    assert batch.global_crops.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    for row, example in enumerate(examples):
        moved = np.moveaxis(example.local_crops, -1, 1)
        np.testing.assert_array_equal(batch.local_crops[row], moved)
        assert batch.sources[row] == example.source
    assert (batch.masks.dtype, batch.masks.shape) == (torch.bool, (7, 2, 16))
    assert int(batch.masks.any(2).sum()) <= 7, "half of 14 global crops"
    part = batch[2:4]
    assert (len(part), part.sources) == (2, batch.sources[2:4])
    assert torch.equal(part.masks, batch.masks[2:4])
    assert torch.equal(part.local_crops, batch.local_crops[2:4])
    assert batch.to("meta").masks.device.type == "meta"
    bare = CropCollator()([CropExamples(source, [mae_recipe(16)], global_crops=1)[0]])
    assert bare.local_crops is bare.masks is None
    assert bare[:1].to("cpu").global_crops.shape == (1, 1, 3, 16, 16)
    with pytest.raises(ConfigError, match="a multiple of the patch size 5, found 16"):
        CropCollator(BlockMasks(5))(examples)


def test_masks_depend_on_seed_and_place_in_the_run(source: ImageFiles) -> None:
    examples = CropExamples(source, RECIPES)
    masks = {
        (seed, first): CropCollator(BlockMasks(2), seed)(
            [examples[first + row] for row in range(4)]
        ).masks
        for seed in (0, 1)
        for first in (0, 4)
    }
    again = pickle.loads(pickle.dumps(CropCollator(BlockMasks(2), 1)))
    assert torch.equal(again([examples[4 + row] for row in range(4)]).masks, masks[1, 4])
    assert len({mask.numpy().tobytes() for mask in masks.values()}) == 4
    assert all(int(mask.any(2).sum()) == 4 for mask in masks.values())


def test_workers_pauses_and_processes_change_no_batch(source: ImageFiles) -> None:
    late = LateViews(dino_recipes(global_size=24, local_size=12, local_crops=2), from_example=12)
    examples, join = CropExamples(source, RECIPES, late=late), CropCollator(BlockMasks(4), 5)
    whole = list(build_loader(examples, BatchPlan(4, 5), collate=join))
    assert [batch.global_crops.shape[-1] for batch in whole] == [16] * 3 + [24] * 2
    rest = list(build_loader(examples, BatchPlan(4, 5, start_step=2), collate=join, workers=2))
    for found, wanted in zip(rest, whole[2:], strict=True):
        assert_same(found, wanted)
    halves = [
        list(build_loader(examples, BatchPlan(4, 5, rank=rank, world_size=2), collate=join))
        for rank in range(2)
    ]
    for one, two, wanted in zip(*halves, whole, strict=True):
        assert one.sources + two.sources == wanted.sources
        assert torch.equal(torch.cat([one.local_crops, two.local_crops]), wanted.local_crops)
        # Each part masks half of its own crops.
        assert int(one.masks.any(2).sum()) <= 2
