"""MAE's decoder and its encoder's start, against transformers' ViTMAE."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from owlkit.encoders import VisionTower
from owlkit.encoders.initialization import init_mae_vision
from owlkit.encoders.masked_decoder import MaskedDecoder
from owlkit.encoders.positions import sincos_positions
from owlkit.errors import ConfigError, TokenError
from owlkit.structures import PatchFeatures


@pytest.fixture(scope="module")
def reference() -> Any:
    """A small ViTMAE of random weights and computed positions."""
    torch.manual_seed(0)
    config = ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=64,
        patch_size=16,
        decoder_hidden_size=48,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=192,
        layer_norm_eps=1e-6,
    )
    model = ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        # Its constructor zeroes the positions; published files bring them.
        model.decoder.initialize_weights(num_patches=16)
        for name, parameter in model.decoder.named_parameters():
            if "pos_embed" not in name:
                nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
    return model


def make_encoder(width: int) -> VisionTower:
    torch.manual_seed(0)
    overrides: dict[str, Any] = {"embed_dim": width, "depth": 2, "num_heads": 4}
    tower = VisionTower("vit_base_patch16_224", image_size=64, overrides=overrides)
    init_mae_vision(tower)
    return tower


def _load(decoder: MaskedDecoder, theirs: Any) -> None:
    state: dict[str, Tensor] = {"mask_token": theirs.mask_token.reshape(-1)}
    for own, other in (
        ("embed", "decoder_embed"),
        ("norm", "decoder_norm"),
        ("predict", "decoder_pred"),
    ):
        for key, value in getattr(theirs, other).state_dict().items():
            state[f"{own}.{key}"] = value
    for index, layer in enumerate(theirs.decoder_layers):
        values = layer.state_dict()
        for kind in ("weight", "bias"):
            stacked = [values[f"attention.{part}_proj.{kind}"] for part in "qkv"]
            parts = {
                "attn.qkv": torch.cat(stacked),
                "attn.proj": values[f"attention.o_proj.{kind}"],
                "norm1": values[f"layernorm_before.{kind}"],
                "norm2": values[f"layernorm_after.{kind}"],
                "mlp.fc1": values[f"mlp.fc1.{kind}"],
                "mlp.fc2": values[f"mlp.fc2.{kind}"],
            }
            state |= {f"blocks.{index}.{name}.{kind}": value for name, value in parts.items()}
    decoder.load_state_dict(state)


@torch.no_grad()
def test_predicts_what_transformers_predicts(reference: Any) -> None:
    decoder = MaskedDecoder(32, grid=(4, 4), patch_size=16, width=48, depth=2, heads=4).eval()
    _load(decoder, reference.decoder)
    order = torch.stack([torch.randperm(16) for _ in range(3)])
    keep = order[:, :4]
    encoded = torch.randn(3, 5, 32)  # class token first, then the kept patches
    expected = reference.decoder(encoded, ids_restore=order.argsort(dim=1)).logits
    features = PatchFeatures(tokens=encoded[:, 1:], pooled=encoded[:, 0], grid=(4, 4))
    torch.testing.assert_close(decoder(features, keep), expected, atol=1e-5, rtol=1e-4)


def test_oblong_positions_say_column_then_row() -> None:
    table = sincos_positions((2, 3), 8).reshape(2, 3, 8)
    for row in range(2):
        for column in range(3):
            for part, place in ((0, column), (1, row)):
                for wave in range(2):
                    angle = torch.tensor(place / 10000 ** (wave / 2))
                    assert table[row, column, 4 * part + wave] == pytest.approx(angle.sin().item())
                    assert table[row, column, 4 * part + 2 + wave] == pytest.approx(
                        angle.cos().item()
                    )


def test_encoder_starts_as_published() -> None:
    torch.manual_seed(0)
    tower = VisionTower(
        "vit_base_patch16_224",
        image_size=64,
        overrides={"embed_dim": 192, "depth": 2, "num_heads": 4},
    )
    init_mae_vision(tower)
    model = tower.model
    assert not model.pos_embed.requires_grad
    assert not model.pos_embed[:, 0].any()
    torch.testing.assert_close(model.pos_embed[0, 1:], sincos_positions((4, 4), 192))
    bounds = {
        model.blocks[1].attn.qkv.weight: (6 / (192 + 3 * 192)) ** 0.5,
        model.blocks[1].mlp.fc1.weight: (6 / (192 + 4 * 192)) ** 0.5,
        model.patch_embed.proj.weight: (6 / (192 + 3 * 256)) ** 0.5,
    }
    for weight, bound in bounds.items():
        assert weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert not model.blocks[0].mlp.fc2.bias.any()
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.15)
    tower.set_image_size(32)
    assert not model.pos_embed.requires_grad


def test_everything_learns_from_hidden_patches_alone() -> None:
    torch.manual_seed(0)
    tower = VisionTower(
        "vit_base_patch16_224",
        image_size=64,
        overrides={"embed_dim": 32, "depth": 2, "num_heads": 4},
    )
    init_mae_vision(tower)
    decoder = MaskedDecoder(32, grid=tower.grid, patch_size=16, width=16, depth=1, heads=2)
    keep = torch.stack([torch.randperm(16)[:4] for _ in range(2)])
    predictions = decoder(tower(torch.randn(2, 3, 64, 64), keep=keep), keep)
    hidden = torch.ones(2, 16, dtype=torch.bool).scatter(1, keep, False)
    predictions[hidden].square().mean().backward()
    for module in (tower, decoder):
        for name, parameter in module.named_parameters():
            assert (parameter.grad is not None) == (name != "model.pos_embed"), name


def test_blocks_add_to_float32_in_mixed_precision() -> None:
    """As in the encoder and in MAE's code, whose positions are float32."""
    tower = make_encoder(32)
    decoder = MaskedDecoder(32, grid=tower.grid, patch_size=16, width=16, depth=2, heads=2)
    found: list[torch.dtype] = []
    for block in (*tower.model.blocks, *decoder.blocks):
        block.register_forward_pre_hook(lambda block, inputs: found.append(inputs[0].dtype))
    keep = torch.arange(4)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = decoder(tower(torch.randn(1, 3, 64, 64), keep=keep), keep)
    assert predictions.dtype == torch.bfloat16
    assert found == [torch.float32] * 4


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 4"):
        sincos_positions((2, 2), 6)
    with pytest.raises(ConfigError, match="no multiple of its 5 heads"):
        MaskedDecoder(8, grid=(2, 2), patch_size=4, width=16, heads=5)
    decoder = MaskedDecoder(8, grid=(2, 2), patch_size=4, width=16, depth=1, heads=2)
    features = PatchFeatures(tokens=torch.zeros(1, 3, 8), pooled=torch.zeros(1, 8), grid=(2, 2))
    with pytest.raises(TokenError, match=r"expected tokens \[1, 2\]"):
        decoder(features, torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ConfigError, match="expected a vision transformer with positions"):
        init_mae_vision(VisionTower("resnet18", image_size=64))
