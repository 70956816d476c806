"""Crops come from shards as they do from files: no captions needed, and the same after a pause."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from owlkit.data.block_masks import BlockMasks
from owlkit.data.crops import CropCollator
from owlkit.data.loader import BatchPlan
from owlkit.data.multi_crop import LateViews, MultiCrop
from owlkit.data.shards import ShardSource, ShardStream, build_shard_loader
from owlkit.data.view_recipes import dino_recipes
from owlkit.errors import DatasetError
from tests.data.tars import members_of, picture, write_tar

RECIPES = dino_recipes(global_size=8, local_size=4, local_crops=2, jittered=0.0, solarize=(0, 0))
LATE = LateViews(dino_recipes(global_size=16, local_size=8, local_crops=2), from_example=12)


def make_stream(folder: Path) -> ShardStream:
    """Twelve pictures, one of them damaged, three with captions."""
    bare = {f"{number}.png": picture(number) for number in range(9)}
    write_tar(folder / "s-0.tar", {**bare, "4.png": b"no picture"})
    write_tar(folder / "s-1.tar", members_of(9, 10, 11))
    sources = [ShardSource((str(folder / "s-*.tar"),))]
    crop = MultiCrop(RECIPES, late=LATE)
    return ShardStream(sources, crop, captions=False, seed=2, shuffle_buffer=3)


def test_every_picture_comes_with_its_number_in_the_run(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    found = list(islice(stream.examples(), 12))
    assert [example.number for example in found] == list(range(12))
    shown = {int(example.source.rpartition(":")[2]) for example in found}
    assert shown == set(range(12)) - {4}
    assert [path for example in found for path in example.corrupt] == [f"{tmp_path}/s-0.tar:4"]
    for example in found:
        red = int(example.source.rpartition(":")[2])
        for view in (*example.global_crops, *example.local_crops):
            assert set(view[..., 0].ravel().tolist()) <= {red, round(0.299 * red)}
    captioned = ShardStream(
        [ShardSource((str(tmp_path / "s-0.tar"),))], stream.make, shuffle_buffer=1
    )
    with pytest.raises(DatasetError, match="expected images with captions"):
        next(captioned.examples())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_goes_on_sees_what_it_would_have_seen(tmp_path: Path, workers: int) -> None:
    stream, join = make_stream(tmp_path), CropCollator(BlockMasks(4, probability=1.0), 7)

    def batches(start: int) -> list:
        plan = BatchPlan(4, 5, start_step=start, rank=1, world_size=2, accumulation=2)
        return list(build_shard_loader(stream, plan, collate=join, workers=workers))

    whole, rest = batches(0), batches(3)
    # The end phase begins with step 3, of which this process has the last two parts.
    assert [batch.global_crops.shape[-1] for batch in whole] == [8] * 6 + [16] * 4
    assert len(rest) == 4
    for found, wanted in zip(rest, whole[6:], strict=True):
        assert (found.sources, found.corrupt) == (wanted.sources, wanted.corrupt)
        assert torch.equal(found.global_crops, wanted.global_crops)
        assert torch.equal(found.local_crops, wanted.local_crops)
        assert torch.equal(found.masks, wanted.masks)
