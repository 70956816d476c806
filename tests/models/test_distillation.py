"""Crops through tower and heads, against each part called by itself; the teacher's step."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from owlkit.encoders import VisionTower
from owlkit.errors import TokenError
from owlkit.models.distillation import CropEncoder
from owlkit.models.distillation_heads import DistillationHead

SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 4}


def make(*, patches: bool = False, shared: bool = False) -> CropEncoder:
    torch.manual_seed(0)
    tower = VisionTower("vit_small_patch16_224", image_size=64, mask_token=patches, overrides=SMALL)
    if tower.mask_token is not None:
        nn.init.normal_(tower.mask_token)
    head = DistillationHead(32, 24, hidden_width=16, bottleneck_width=8)
    own = DistillationHead(32, 20, hidden_width=16, bottleneck_width=8)
    return CropEncoder(tower, head, (head if shared else own) if patches else None)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_equals_its_parts(shared: bool) -> None:
    encoder = make(patches=True, shared=shared)
    global_crops, local_crops = torch.randn(4, 3, 64, 64), torch.randn(6, 3, 32, 32)
    mask = torch.rand(4, 16) < 0.3
    mask[1] = False
    found = encoder(global_crops, local_crops, mask=mask, read=mask.nonzero())
    # Each crop by itself.
    alone = [
        encoder.vision(crop[None], mask=row[None])
        for crop, row in zip(global_crops, mask, strict=True)
    ]
    local = [encoder.vision(crop[None]).pooled for crop in local_crops]
    pooled = torch.cat([features.pooled for features in alone])
    patches = torch.cat([f.tokens[0, row] for f, row in zip(alone, mask, strict=True)])
    assert encoder.patch_head is not None
    close: dict[str, float] = {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(found.pooled, pooled, **close)
    torch.testing.assert_close(found.logits, encoder.head(torch.cat([pooled, *local])), **close)
    torch.testing.assert_close(found.patch_logits, encoder.patch_head(patches), **close)


def test_teacher_reads_hidden_patches_unmasked() -> None:
    encoder = make(patches=True).eval()
    crops, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 16) < 0.5
    found = encoder(crops, read=mask.nonzero())
    tokens: Tensor = encoder.vision(crops).tokens
    assert encoder.patch_head is not None
    torch.testing.assert_close(found.patch_logits, encoder.patch_head(tokens[mask]))
    assert encoder(crops).patch_logits is None


def test_images_of_which_no_patch_is_hidden_keep_the_graph() -> None:
    encoder = make(patches=True)
    nothing = torch.zeros(2, 16, dtype=torch.bool)
    found = encoder(torch.randn(2, 3, 64, 64), mask=nothing, read=nothing.nonzero())
    assert found.patch_logits is not None
    assert found.patch_logits.shape == (0, 20)
    found.patch_logits.sum().backward()
    assert encoder.patch_head is not None
    assert all(p.grad is not None for p in encoder.patch_head.parameters())


def test_frozen_prototypes_of_both_heads() -> None:
    encoder = make(patches=True)
    mask = torch.ones(2, 16, dtype=torch.bool)
    found = encoder(
        torch.randn(2, 3, 64, 64), mask=mask, read=mask.nonzero(), freeze_prototypes=True
    )
    assert found.patch_logits is not None
    (found.logits.sum() + found.patch_logits.sum()).backward()
    without = {name for name, p in encoder.named_parameters() if p.grad is None}
    assert without == {"head.prototypes.weight", "patch_head.prototypes.weight"}


def test_patches_cannot_be_read_without_their_head() -> None:
    encoder = make()
    crops = torch.randn(2, 3, 64, 64)
    with pytest.raises(TokenError, match="needs a patch head"):
        encoder(crops, read=torch.ones(2, 16).nonzero())
    with pytest.raises(TokenError, match=r"must be int64 \[M, 2\], found torch.bool \[2, 16\]"):
        make(patches=True)(crops, read=torch.ones(2, 16, dtype=torch.bool))
