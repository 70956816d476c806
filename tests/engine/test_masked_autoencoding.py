"""Masked autoencoding against a slow and obvious version."""

import pytest
import torch

from owlkit.encoders.masked_decoder import MaskedDecoder
from owlkit.engine.masked_autoencoding import MaskedAutoencodingTask
from owlkit.errors import ConfigError
from owlkit.structures import PatchFeatures
from tests.engine.toy_crops import crop_batch, make_backbone, make_tower


def make_task(*, mask_ratio: float = 0.75, mask_token: bool = False) -> MaskedAutoencodingTask:
    torch.manual_seed(0)
    decoder = MaskedDecoder(16, grid=(4, 4), patch_size=4, width=16, depth=1, heads=2)
    model = make_backbone(make_tower(mask_token=mask_token))
    return MaskedAutoencodingTask(model, decoder, mask_ratio=mask_ratio).train()


def test_the_loss_is_the_error_on_patches_that_the_tower_never_saw() -> None:
    task, batch = make_task(), crop_batch(5)
    torch.manual_seed(3)
    keep = torch.rand(5, 16).argsort(dim=1)[:, :4]
    torch.manual_seed(3)
    terms = task(batch)

    mean, std = torch.tensor([task.model.preprocessing.mean, task.model.preprocessing.std])
    images = (batch.global_crops[:, 0] / 255 - mean[:, None, None]) / std[:, None, None]
    features: PatchFeatures = task.model.vision(images, keep=keep)
    predictions = task.decoder(features, keep)
    errors = []
    for image, patches, kept in zip(images, predictions, keep.tolist(), strict=True):
        for index in set(range(16)) - set(kept):
            row, column = index // 4 * 4, index % 4 * 4
            pixels = image[:, row : row + 4, column : column + 4].permute(1, 2, 0).flatten()
            target = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
            errors.append((patches[index] - target).square().mean())
    assert len(errors) == 5 * 12
    torch.testing.assert_close(terms["loss"], torch.stack(errors).mean(), rtol=1e-5, atol=1e-6)
    assert terms["mae"] == terms["loss"]
    assert terms.keys() == {"loss", "mae", "feature_std", "feature_rank"}

    terms["loss"].backward()
    # What DistributedDataParallel would otherwise wait for.
    assert not task.find_unused_parameters
    assert all(weight.grad is not None for weight in task.parameters())
    assert make_task(mask_token=True).find_unused_parameters


def test_every_image_and_step_hides_other_patches() -> None:
    task = make_task()
    images = torch.zeros(400, 3, 16, 16)
    keep = task._choose_patches(images)
    assert keep.shape == (400, 4)
    counts = torch.zeros(400, 16).scatter(1, keep, 1.0)
    assert (counts.sum(dim=1) == 4).all(), "a patch was kept twice"
    # 100 of 400 are expected; the deviation of a count is 8.7.
    assert (counts.sum(dim=0) - 100).abs().max() < 5 * 8.7
    assert not torch.equal(task._choose_patches(images), keep)


@pytest.mark.parametrize("ratio", [0.0, 0.95, 1.0])
def test_some_patches_are_hidden_and_some_kept(ratio: float) -> None:
    with pytest.raises(ConfigError, match="hides some of 16 patches"):
        make_task(mask_ratio=ratio)
