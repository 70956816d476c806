"""The image tower's contract, on every family of backbones."""

from typing import Any

import pytest
import torch
from torch import Tensor

from owlkit.encoders import VisionTower
from owlkit.encoders.vit import attention_layers
from owlkit.errors import CheckpointError, ConfigError, InputSizeError, TokenError

SMALL_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 4}
VITS: dict[str, dict[str, Any]] = {
    "vit_base_patch16_clip_quickgelu_224": SMALL_VIT,
    "vit_base_patch16_siglip_224": SMALL_VIT,
    "vit_small_patch16_224": SMALL_VIT,
    "vit_small_patch14_reg4_dinov2": {**SMALL_VIT, "patch_size": 16},
    "vit_small_patch16_dinov3": SMALL_VIT,
}
MAPS: dict[str, dict[str, Any]] = {
    "resnet50_clip": {},
    "resnet18": {},
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 16,
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 1, 2, 2),
    },
    "convnext_atto": {},
}


def make(name: str, **options: Any) -> VisionTower:
    overrides = {**VITS, **MAPS}[name]
    torch.manual_seed(0)
    size = 64 if name in VITS else 96
    tower = VisionTower(name, image_size=size, overrides=overrides, **options).eval()
    for parameter in tower.parameters():
        if parameter.abs().max() == 0:  # starts at zero and would hide what it multiplies
            torch.nn.init.normal_(parameter, std=0.1)
    return tower


@pytest.mark.parametrize("name", [*VITS, *MAPS])
@pytest.mark.parametrize("size", [(64, 64), (96, 160)], ids=["native", "oblong"])
@torch.no_grad()
def test_every_backbone_gives_tokens_pooled_and_grid(name: str, size: tuple[int, int]) -> None:
    tower = make(name)
    features = tower(torch.randn(3, 3, *size))
    cells = (size[0] // tower.patch_size, size[1] // tower.patch_size)
    assert features.grid == cells
    assert features.tokens.shape == (3, cells[0] * cells[1], tower.width)
    assert features.pooled.shape == (3, tower.pooled_width)


@pytest.mark.parametrize("name", [*VITS, *MAPS])
@torch.no_grad()
def test_tokens_are_row_major(name: str) -> None:
    """A change in one corner of the image must be strongest in that corner's token."""
    tower = make(name)
    image = torch.randn(1, 3, 160, 96)
    changed = image.clone()
    changed[:, :, : tower.patch_size, -tower.patch_size :] += 3
    before, after = tower(image), tower(changed)
    moved = (after.tokens - before.tokens).norm(dim=-1)[0].reshape(before.grid)
    assert moved.argmax() == before.grid[1] - 1


@pytest.mark.parametrize("name", [*VITS, *MAPS])
@torch.no_grad()
def test_spec_rebuilds_the_tower(name: str) -> None:
    tower = make(name)
    twin = VisionTower(**tower.spec).eval()
    twin.load_state_dict(tower.state_dict())
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(tower(image).tokens, twin(image).tokens)


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_matches_timm_at_native_size(name: str) -> None:
    tower = make(name)
    image = torch.randn(2, 3, 64, 64)
    expected = tower.model.forward_features(image)
    found = tower(image)
    torch.testing.assert_close(found.tokens, expected[:, tower.model.num_prefix_tokens :])
    torch.testing.assert_close(found.pooled, tower.model.forward_head(expected, pre_logits=True))
    if tower.model.cls_token is not None:
        torch.testing.assert_close(found.pooled, expected[:, 0])


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_dropped_patches_are_never_seen(name: str) -> None:
    tower = make(name)
    image = torch.randn(2, 3, 64, 96)
    keep = torch.tensor([[0, 5, 23], [7, 2, 11]])
    changed = image.clone()
    dropped = set(range(24)) - set(keep[0].tolist())
    for patch in dropped:
        row, column = divmod(patch, 6)
        changed[0, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 9.0
    kept, kept_changed = tower(image, keep=keep), tower(changed, keep=keep)
    assert kept.tokens.shape == (2, 3, tower.width)
    assert kept.grid == (4, 6)
    torch.testing.assert_close(kept.tokens, kept_changed.tokens)
    torch.testing.assert_close(kept.pooled, kept_changed.pooled)


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_keeping_all_in_another_order_only_reorders(name: str) -> None:
    tower = make(name)
    image = torch.randn(1, 3, 64, 64)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        tower(image, keep=order[None]).tokens, tower(image).tokens[:, order], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_mask_token_replaces_content_but_not_position(name: str) -> None:
    tower = make(name, mask_token=True)
    image = torch.randn(1, 3, 64, 64)
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, :4] = True
    changed = image.clone()
    changed[:, :, :16] = 5.0  # only the masked row of patches
    masked = tower(image, mask=mask)
    torch.testing.assert_close(masked.tokens, tower(changed, mask=mask).tokens)
    if tower.model.pos_embed is not None:
        assert not torch.allclose(masked.tokens[0, 0], masked.tokens[0, 1])


def _softmax_inside(tower: VisionTower, image: Tensor) -> Tensor:
    """Attention as timm's unfused path computes it in the module that the map is read from."""
    model = tower.model
    module = model.attn_pool if model.attn_pool is not None else model.blocks[-1].attn
    module.fused_attn = False
    seen: list[Tensor] = []
    original = Tensor.softmax

    def softmax(scores: Tensor, dim: int) -> Tensor:
        seen.append(original(scores, dim=dim))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "softmax", softmax)
        tower(image)
    module.fused_attn = True
    return seen[-1]


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_attention_maps_are_the_models_own(name: str) -> None:
    tower = make(name)
    image = torch.randn(2, 3, 64, 96)
    maps = tower.attention_maps(image)
    own = _softmax_inside(tower, image)
    first_patch = 0 if tower.model.attn_pool is not None else tower.model.num_prefix_tokens
    expected = own[:, :, 0, first_patch:]
    assert maps.shape == (2, 4, 4, 6)
    torch.testing.assert_close(maps.flatten(2), expected)


def test_gradient_checkpointing_changes_memory_not_gradients() -> None:
    tower = make("vit_base_patch16_clip_quickgelu_224").train()
    image = torch.randn(2, 3, 64, 64)
    gradients = []
    for checkpointing in (False, True):
        tower.gradient_checkpointing = checkpointing
        tower.zero_grad()
        tower(image).tokens.square().sum().backward()
        gradients.append(tower.model.patch_embed.proj.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("rescale", [True, False])
def test_stochastic_depth_rises_linearly_and_rescales_if_asked(rescale: bool) -> None:
    overrides = {**SMALL_VIT, "depth": 3}
    tower = VisionTower(
        "vit_small_patch16_224",
        image_size=32,
        drop_path=0.4,
        rescale_dropped=rescale,
        overrides=overrides,
    )
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in tower.model.blocks]
    assert rates == pytest.approx([0.0, 0.2, 0.4])
    tower.train()
    kept = tower.model.blocks[2].drop_path1(torch.ones(4000, 1))
    expected = 1 / 0.6 if rescale else 1.0
    assert sorted(set(kept.flatten().tolist())) == pytest.approx([0.0, expected])
    assert 0.5 < (kept > 0).float().mean() < 0.7


@torch.no_grad()
def test_set_image_size_equals_resampling_in_forward() -> None:
    tower = make("vit_base_patch16_clip_quickgelu_224")
    image = torch.randn(1, 3, 96, 32)
    expected = tower(image).tokens
    tower.set_image_size((96, 32))
    assert tower.grid == (6, 2)
    torch.testing.assert_close(tower(image).tokens, expected)
    assert VisionTower(**tower.spec).model.pos_embed.shape == tower.model.pos_embed.shape


@pytest.mark.parametrize("shape", [(1, 3, 60, 64), (1, 3, 64, 70), (1, 3, 0, 64)])
def test_sizes_off_the_patch_grid_are_refused(shape: tuple[int, ...]) -> None:
    tower = make("vit_small_patch16_224")
    with pytest.raises(InputSizeError, match=rf"16x16 .* found {shape[2]}x{shape[3]}"):
        tower(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputSizeError, match=r"\[B, 3, H, W\]"):
        make("resnet18")(torch.zeros(shape))


def test_feature_maps_cannot_drop_or_mask() -> None:
    tower = make("resnet18")
    with pytest.raises(TokenError, match="resnet18"):
        tower(torch.zeros(1, 3, 64, 64), keep=torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(TokenError, match="vision transformer"):
        tower.attention_maps(torch.zeros(1, 3, 64, 64))


def test_masking_needs_a_mask_token() -> None:
    tower = make("vit_small_patch16_224")
    with pytest.raises(TokenError, match="mask_token=True"):
        tower(torch.zeros(1, 3, 64, 64), mask=torch.ones(1, 16, dtype=torch.bool))


@torch.no_grad()
def test_models_pooled_before_their_norm_are_pooled_as_trained() -> None:
    overrides = {**SMALL_VIT, "global_pool": "avg", "class_token": False}
    tower = VisionTower("vit_small_patch16_224", image_size=64, overrides=overrides).eval()
    torch.nn.init.normal_(tower.model.fc_norm.bias)
    image = torch.randn(1, 3, 64, 64)
    hidden = tower.model.forward_features(image)
    features = tower(image)
    torch.testing.assert_close(features.pooled, tower.model.fc_norm(hidden.mean(dim=1)))
    torch.testing.assert_close(features.tokens, tower.model.fc_norm(hidden))


@torch.no_grad()
def test_a_native_size_off_the_patch_grid_is_cut() -> None:
    """As SigLIP so400m/14 at 384: the convolution leaves the last pixels out."""
    overrides = {**SMALL_VIT, "patch_size": 14}
    tower = VisionTower("vit_base_patch16_siglip_224", image_size=48, overrides=overrides).eval()
    image = torch.randn(1, 3, 48, 48)
    features = tower(image)
    assert features.grid == tower.grid == (3, 3)
    torch.testing.assert_close(features.tokens, tower(image[:, :, :42, :42]).tokens)


def test_swin_keeps_its_windows_at_other_sizes() -> None:
    tower = make("swin_tiny_patch4_window7_224")
    tower.set_image_size(64)
    twin = VisionTower(**tower.spec)
    twin.load_state_dict(tower.state_dict())
    assert tower.model.layers[0].blocks[0].window_size == (7, 7)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_feature_maps_checkpoint_their_gradients_too(name: str) -> None:
    def saved_numbers(checkpointing: bool) -> int:
        tower = make(name).train()
        tower.gradient_checkpointing = checkpointing
        total = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            tower(torch.randn(2, 3, 96, 96))
        return total

    assert saved_numbers(True) < 0.8 * saved_numbers(False)


@torch.no_grad()
def test_images_follow_the_towers_precision() -> None:
    tower = make("vit_small_patch16_224").to(torch.bfloat16)
    assert tower(torch.randn(1, 3, 64, 64)).tokens.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("deit_tiny_distilled_patch16_224", "distillation"),
        ("vit_small_patch16_rope_mixed_224", "rotary"),
    ],
)
def test_transformers_that_would_come_out_wrong_are_refused(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        VisionTower(name, image_size=64, overrides={"depth": 1})


@pytest.mark.parametrize(
    "selection",
    [
        {"keep": torch.zeros(3, dtype=torch.int64)},
        {"keep": torch.zeros(2, 3, dtype=torch.int64)},
        {"mask": torch.zeros(1, 15, dtype=torch.bool)},
        {"mask": torch.zeros(1, 1, dtype=torch.bool)},
    ],
)
def test_selections_of_the_wrong_shape_are_refused(selection: dict[str, Tensor]) -> None:
    tower = make("vit_small_patch16_224", mask_token=True)
    with pytest.raises(TokenError, match=r"must be \[1, (K|16)\], found"):
        tower(torch.zeros(1, 3, 64, 64), **selection)


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_plain_attention_is_the_same_function(name: str) -> None:
    tower = make(name)
    image = torch.randn(1, 3, 64, 64)
    fused, fused_maps = tower(image), tower.attention_maps(image)
    tower.suit_attention(torch.device("cpu"), torch.bfloat16)
    assert not any(layer.fused_attn for layer in attention_layers(tower.model))
    plain = tower(image)
    torch.testing.assert_close(plain.tokens, fused.tokens)
    torch.testing.assert_close(plain.pooled, fused.pooled)
    torch.testing.assert_close(tower.attention_maps(image), fused_maps)
    assert not any(layer.fused_attn for layer in attention_layers(tower.model))
    tower.suit_attention(torch.device("cpu"), torch.float32)
    assert all(layer.fused_attn for layer in attention_layers(tower.model))


def test_unknown_architecture_names_near_ones() -> None:
    with pytest.raises(ConfigError, match="vit_bass_patch16"):
        VisionTower("vit_bass_patch16")


def test_weights_that_the_hub_does_not_give_are_named() -> None:
    with pytest.raises(CheckpointError, match="vit_tiny_patch16_224"):
        VisionTower("vit_tiny_patch16_224", pretrained=True)


def test_unknown_override_is_named() -> None:
    with pytest.raises(ConfigError, match="depht"):
        VisionTower("vit_small_patch16_224", overrides={"depht": 2})


@pytest.mark.parametrize("name", ["vit_small_patch16_224", "vit_small_patch14_reg4_dinov2"])
@torch.no_grad()
def test_last_layers_match_timm(name: str) -> None:
    tower = make(name)
    image = torch.randn(2, 3, 64, 64)
    expected = tower.model.get_intermediate_layers(image, 2, return_prefix_tokens=True, norm=True)
    found = tower.last_layers(image, 2)
    assert len(found) == 2
    for features, (patches, prefix) in zip(found, expected, strict=True):
        torch.testing.assert_close(features.tokens, patches)
        torch.testing.assert_close(features.pooled, prefix[:, 0])
    assert torch.equal(found[-1].tokens, tower(image).tokens)


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(TokenError, match="count: expected 1 to 2, found 3"):
        make("vit_small_patch16_224").last_layers(torch.zeros(1, 3, 64, 64), 3)
    with pytest.raises(TokenError, match="need a vision transformer; found resnet18"):
        make("resnet18").last_layers(torch.zeros(1, 3, 64, 64), 1)


def test_stochastic_depth_can_be_uniform() -> None:
    def paths(**options: Any) -> list[Any]:
        model = make("vit_small_patch16_224", drop_path=0.3, **options).model
        return [path for block in model.blocks for path in (block.drop_path1, block.drop_path2)]

    rates = [getattr(path, "drop_prob", 0.0) for path in paths()]
    assert rates == pytest.approx([0.0, 0.0, 0.3, 0.3])
    uniform = paths(uniform_drop_path=True, rescale_dropped=False)
    assert [path.drop_prob for path in uniform] == [0.3] * 4
    assert not any(path.scale_by_keep for path in uniform)
    with pytest.raises(ConfigError, match="expected a vision transformer, found resnet18"):
        make("resnet18", uniform_drop_path=True)


def test_specification_without_newer_entries_still_builds() -> None:
    spec = make("vit_small_patch16_224").spec
    del spec["uniform_drop_path"]
    assert not VisionTower(**spec).uniform_drop_path
