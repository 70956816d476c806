"""Weights to start from have the published scales, not the libraries'."""

import pytest
import torch

from owlkit.encoders import VisionTower, create_text_tower
from owlkit.encoders.initialization import init_clip_text, init_clip_vision

WIDTH, DEPTH = 256, 4


@pytest.fixture(scope="module")
def text_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tower = create_text_tower(
        width=WIDTH, depth=DEPTH, heads=4, vocab_size=500, context_length=77, embed_width=128
    )
    init_clip_text(tower)
    return tower.state_dict()


@pytest.mark.parametrize(
    ("suffix", "deviation"),
    [
        ("token_embedding.weight", 0.02),
        ("position_embedding.weight", 0.01),
        ("layers.1.self_attn.q_proj.weight", 0.0625),
        ("layers.1.self_attn.k_proj.weight", 0.0625),
        ("layers.1.self_attn.v_proj.weight", 0.0625),
        # 256^-1/2 * (2 * 4)^-1/2; transformers swaps this one with the three above.
        ("layers.1.self_attn.out_proj.weight", 0.0220971),
        ("layers.1.mlp.fc1.weight", 0.0441942),
        ("layers.1.mlp.fc2.weight", 0.0220971),
        ("projection.weight", 0.0625),
    ],
)
def test_text_scales(text_weights: dict[str, torch.Tensor], suffix: str, deviation: float) -> None:
    (value,) = [value for key, value in text_weights.items() if key.endswith(suffix)]
    assert value.std().item() == pytest.approx(deviation, rel=0.03)


def test_text_biases_are_zero(text_weights: dict[str, torch.Tensor]) -> None:
    biases = {key: value for key, value in text_weights.items() if key.endswith("proj.bias")}
    assert len(biases) == 4 * DEPTH
    assert all(not value.any() for value in biases.values())


def test_vision_scales() -> None:
    torch.manual_seed(0)
    tower = VisionTower(
        "vit_base_patch16_clip_quickgelu_224",
        image_size=224,
        overrides={"embed_dim": WIDTH, "depth": DEPTH, "num_heads": 4},
    )
    init_clip_vision(tower)
    block = tower.model.blocks[1]
    assert tower.model.pos_embed.std().item() == pytest.approx(WIDTH**-0.5, rel=0.03)
    assert tower.model.cls_token.std().item() == pytest.approx(WIDTH**-0.5, rel=0.2)
    # Xavier-uniform over the stacked [3D, D] matrix: bound sqrt(6 / 4D).
    assert block.attn.qkv.weight.abs().max().item() == pytest.approx((6 / (4 * WIDTH)) ** 0.5, 0.01)
    assert not block.attn.qkv.bias.any()
    assert not block.attn.proj.bias.any()
    # torch's own default for a linear layer: uniform up to fan_in^-1/2.
    assert block.mlp.fc1.weight.abs().max().item() == pytest.approx(WIDTH**-0.5, rel=0.01)


def test_clip_resnet_pool_scale() -> None:
    torch.manual_seed(0)
    tower = VisionTower("resnet50_clip", image_size=64)
    init_clip_vision(tower)
    pool = tower.model.head.q if hasattr(tower.model.head, "q") else tower.model.head.global_pool.q
    assert pool.weight.std().item() == pytest.approx(2048**-0.5, rel=0.01)


def test_towers_without_clips_norm_keep_their_own_start() -> None:
    torch.manual_seed(0)
    tower = VisionTower("vit_small_patch14_reg4_dinov2", image_size=56, overrides={"depth": 1})
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    init_clip_vision(tower)
    assert all(torch.equal(value, before[key]) for key, value in tower.state_dict().items())
