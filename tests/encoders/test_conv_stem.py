"""The convolutional stem computes what it says and fits everything that a patch embedding fits."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from owlkit import OwlDetector
from owlkit.build import build_detector
from owlkit.config import DetectorConfig, load_config
from owlkit.encoders import VisionTower
from owlkit.encoders.conv_stem import ConvStem
from owlkit.encoders.hf_vision import from_timm_state
from owlkit.encoders.initialization import init_clip_vision
from owlkit.errors import CheckpointError, ConfigError

CLIP, PLAIN = "vit_base_patch16_clip_quickgelu_224", "vit_small_patch16_224"
SMALL: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "patch_size": 8,
    "stem": "conv",
}
CONFIG = Path(__file__).parents[2] / "configs" / "owl_tiny.yaml"


def make(name: str = PLAIN, *, size: int = 64, **options: Any) -> VisionTower:
    torch.manual_seed(0)
    overrides = {**SMALL, **options.pop("overrides", {})}
    return VisionTower(name, image_size=size, overrides=overrides, **options).eval()


def by_hand(stem: ConvStem, images: Tensor) -> Tensor:
    """Convolutions as sums over shifted copies, norms from their definition [B, h, w, D]."""
    features = images.double()
    for layer in stem.convs:
        weight = layer.conv.weight.double()
        padded = F.pad(features, (1, 1, 1, 1))
        height, width = features.shape[2:]
        features = sum(
            torch.einsum(
                "oc,bchw->bohw",
                weight[:, :, row, column],
                padded[:, :, row : row + height : 2, column : column + width : 2],
            )
            for row in range(3)
            for column in range(3)
        )
        grouped = features.unflatten(1, (min(8, features.shape[1]), -1))
        mean = grouped.mean(dim=(2, 3, 4), keepdim=True)
        variance = (grouped - mean).square().mean(dim=(2, 3, 4), keepdim=True)
        features = ((grouped - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
        scale, shift = layer.norm.weight.double(), layer.norm.bias.double()
        features = features * scale[:, None, None] + shift[:, None, None]
        features = features.clamp(min=0)
    tokens = torch.einsum("oc,bchw->bhwo", stem.proj.weight.double()[:, :, 0, 0], features)
    return tokens if stem.proj.bias is None else tokens + stem.proj.bias.double()


@pytest.mark.parametrize(
    ("name", "patch_size", "widths"),
    [(PLAIN, 8, [8, 16, 32]), (CLIP, 16, [4, 8, 16, 32]), (CLIP, 2, [32])],
)
@torch.no_grad()
def test_tokens_are_those_of_the_definition(name: str, patch_size: int, widths: list[int]) -> None:
    tower = make(name, overrides={"patch_size": patch_size})
    stem = tower.model.patch_embed
    for layer in stem.convs:
        torch.nn.init.normal_(layer.norm.weight)
        torch.nn.init.normal_(layer.norm.bias)
    assert [layer.conv.out_channels for layer in stem.convs] == widths
    assert (stem.proj.bias is None) == (name == CLIP), "CLIP's patches have no bias"
    images = torch.randn(2, 3, 32, 48)
    found = stem(images)
    assert found.shape == (2, 32 // patch_size, 48 // patch_size, 32)
    torch.testing.assert_close(found, by_hand(stem, images).float(), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_token_sees_no_other_image() -> None:
    """A norm over a batch would let it, and would differ between training and evaluation."""
    stem = make().train().model.patch_embed
    images = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(stem(images)[:1], stem(images[:1]))
    assert torch.equal(stem(images), stem.eval()(images))


@pytest.mark.parametrize("size", [(64, 64), (96, 40), (8, 8)])
@torch.no_grad()
def test_any_multiple_of_the_patch_size(size: tuple[int, int]) -> None:
    tower = make(CLIP)
    features = tower(torch.randn(2, 3, *size))
    assert tower.patch_size == 8
    assert features.grid == (size[0] // 8, size[1] // 8)
    assert features.tokens.shape == (2, features.grid[0] * features.grid[1], 32)


@torch.no_grad()
def test_the_native_size_can_change() -> None:
    tower = make()
    images = torch.randn(1, 3, 96, 32)
    expected = tower(images).tokens
    tower.set_image_size((96, 32))
    assert tower.grid == tower.model.patch_embed.grid_size == (12, 4)
    torch.testing.assert_close(tower(images).tokens, expected)
    torch.testing.assert_close(tower.model.forward_features(images)[:, 1:], expected)


@torch.no_grad()
def test_patches_can_be_kept_and_masked() -> None:
    tower = make(mask_token=True)
    images = torch.randn(2, 3, 64, 64)
    order = torch.stack([torch.randperm(64), torch.randperm(64)])
    expected = tower(images).tokens.gather(1, order[..., None].expand(-1, -1, 32))
    found = tower(images, keep=order).tokens
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert tower(images, keep=order[:, :5]).tokens.shape == (2, 5, 32)
    everything = torch.ones(2, 64, dtype=torch.bool)
    masked = tower(images, mask=everything).tokens
    torch.testing.assert_close(masked, tower(torch.zeros_like(images), mask=everything).tokens)
    assert tower.attention_maps(images).shape == (2, 4, 8, 8)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    tower = make(CLIP).train()
    images = torch.randn(2, 3, 64, 64)
    gradients = []
    for checkpointing in (False, True):
        tower.gradient_checkpointing = checkpointing
        tower.zero_grad()
        tower(images).tokens.square().sum().backward()
        gradients.append(
            [parameter.grad.clone() for parameter in tower.model.patch_embed.parameters()]
        )
    assert all(gradient.any() for gradient in gradients[0])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("name", [CLIP, PLAIN])
def test_weights_start_by_hes_rule(name: str) -> None:
    tower = make(name, overrides={"embed_dim": 256})
    init_clip_vision(tower)
    stem = tower.model.patch_embed
    for before, layer in zip((3, 64, 128), stem.convs, strict=True):
        wanted = (2 / (9 * before)) ** 0.5
        assert layer.conv.weight.std().item() == pytest.approx(wanted, rel=0.05)
    # torch's own default for a convolution: uniform up to fan_in^-1/2.
    assert stem.proj.weight.abs().max().item() == pytest.approx(256**-0.5, rel=0.01)


def tiny_detector() -> OwlDetector:
    overrides = {"embed_dim": 32, "depth": 1, "num_heads": 4, "patch_size": 8, "stem": "conv"}
    config = load_config(CONFIG, [f"model.vision.overrides={json.dumps(overrides)}"])
    assert isinstance(config, DetectorConfig)
    return build_detector(config.model).eval()


@torch.no_grad()
def test_a_detector_with_it_comes_back_equal(tmp_path: Path) -> None:
    detector = tiny_detector()
    detector.save_pretrained(tmp_path)
    back = OwlDetector.from_pretrained(tmp_path)
    assert isinstance(back.vision.model.patch_embed, ConvStem)
    assert back.architecture == detector.architecture
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(back.encode_images(images).boxes, detector.encode_images(images).boxes)
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in detector.state_dict().items())


def test_clips_hugging_face_layout_cannot_hold_it() -> None:
    with pytest.raises(CheckpointError, match=r"no place in the CLIP layout .*patch_embed\.convs"):
        from_timm_state(make(CLIP), pre_norm_name="pre_layernorm")


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (PLAIN, {"patch_size": 14}, "power of two, found 14"),
        (PLAIN, {"patch_size": 1}, "power of two, found 1"),
        (PLAIN, {"embed_dim": 36, "patch_size": 16}, "multiple of 8, found 36"),
        (PLAIN, {"stem": "hybrid"}, "expected 'conv', .* found 'hybrid'"),
        ("vit_small_patch16_dinov3", {}, "found 'conv' on vit_small_patch16_dinov3"),
        ("resnet18", {}, "stem"),
    ],
)
def test_what_it_cannot_do_is_named(name: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name, overrides=overrides)


def test_channels_double_up_to_the_width() -> None:
    stem = make(overrides={"embed_dim": 128}).model.patch_embed
    widths = [3, *(layer.conv.out_channels for layer in stem.convs)]
    assert list(pairwise(widths)) == [(3, 32), (32, 64), (64, 128)]
