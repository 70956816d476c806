"""A dual encoder's image side, step by step; interop tests compare the whole with others."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from owlkit.errors import TokenError
from tests.engine.toy import make_dual_encoder


@torch.no_grad()
def test_an_embedding_is_the_projected_pool(tokenizer_folder: Path) -> None:
    model = make_dual_encoder(tokenizer_folder).eval()
    images = torch.randn(3, 3, 32, 32)
    pooled = model.pool_images(images)
    assert pooled.shape == (3, 32)
    assert torch.equal(pooled, model.vision(images).pooled)
    expected = F.normalize(pooled @ model.image_projection.weight.T, dim=1)
    torch.testing.assert_close(model.encode_images(images), expected)
    torch.testing.assert_close(model.project_pooled(pooled), expected)


@torch.no_grad()
def test_dropped_patches_are_not_seen(tokenizer_folder: Path) -> None:
    """What stands in the patches that are left out makes no difference."""
    model = make_dual_encoder(tokenizer_folder).eval()
    images = torch.randn(2, 3, 32, 32)
    other = images.clone()
    other[0, :, :8, :8] += 1.0  # patch 0
    other[1, :, 24:, 24:] += 1.0  # patch 15
    keep = torch.stack([torch.arange(1, 16), torch.arange(15)])
    torch.testing.assert_close(
        model.encode_images(images, keep=keep), model.encode_images(other, keep=keep)
    )
    assert not torch.allclose(model.encode_images(images), model.encode_images(other))


def test_patches_of_a_convolutional_tower_cannot_be_dropped(tokenizer_folder: Path) -> None:
    model = make_dual_encoder(tokenizer_folder, vision="resnet18")
    with pytest.raises(TokenError):
        model.encode_images(torch.randn(2, 3, 32, 32), keep=torch.zeros(2, 1, dtype=torch.int64))
