"""Exported backbones, as transformers' and timm's own classes load and compute them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    Dinov2Model,
    Dinov2WithRegistersModel,
    ViTModel,
)

from owlkit import ImageBackbone
from owlkit.encoders import VisionTower
from owlkit.errors import CheckpointError, ConfigError
from tests.models.test_backbone import make_backbone

GATED: dict[str, Any] = {"mlp": "swiglu", "act_layer": "silu", "mlp_ratio": 5.5}
SCALED: dict[str, Any] = {"init_values": 1e-5}
TOWERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dino": (ViTModel, {}),
    "scaled": (Dinov2Model, {"overrides": SCALED, "mask_token": True}),
    "gated": (Dinov2Model, {"overrides": {**SCALED, **GATED}}),
    "gated without scale": (Dinov2Model, {"overrides": GATED}),
    "registers": (
        Dinov2WithRegistersModel,
        {
            "overrides": {**SCALED, **GATED, "reg_tokens": 3, "no_embed_class": True},
            "positions": "bicubic_antialias",
            "mask_token": True,
        },
    ),
    "registers with positions": (
        Dinov2WithRegistersModel,
        {"overrides": {"reg_tokens": 2}, "positions": "bicubic_antialias"},
    ),
}


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_transformers_computes_the_same(name: str, tmp_path: Path) -> None:
    model_class, options = TOWERS[name]
    model = make_backbone(**options)
    model.save_transformers(tmp_path / "hf")
    extra = {"add_pooling_layer": False} if model_class is ViTModel else {}
    theirs, report = model_class.from_pretrained(tmp_path / "hf", output_loading_info=True, **extra)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for size in ((64, 64), (96, 128)):
        pixels = torch.randn(2, 3, *size)
        expected = theirs.eval()(pixels, **({"interpolate_pos_encoding": True} if extra else {}))
        found = model(pixels)
        close: dict[str, float] = {"atol": 2e-5, "rtol": 1e-4}
        hidden = expected.last_hidden_state
        torch.testing.assert_close(found.pooled, hidden[:, 0], **close)
        torch.testing.assert_close(found.tokens, hidden[:, -found.tokens.shape[1] :], **close)
    if model.vision.mask_token is not None:
        mask = torch.rand(2, 16) < 0.4
        pixels = torch.randn(2, 3, 64, 64)
        hidden = theirs(pixels, bool_masked_pos=mask).last_hidden_state
        torch.testing.assert_close(model.vision(pixels, mask=mask).pooled, hidden[:, 0], **close)
    back = ImageBackbone.from_pretrained(tmp_path / "hf")
    torch.testing.assert_close(back(pixels).tokens, model(pixels).tokens, **close)


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_image_processor_makes_the_same_input(fit: str, tmp_path: Path) -> None:
    model = make_backbone(fit=fit)
    model.save_transformers(tmp_path / "hf")
    ramp = np.linspace(0, 255, 96 * 128 * 3).reshape(96, 128, 3).astype(np.uint8)
    theirs = AutoImageProcessor.from_pretrained(tmp_path / "hf")(
        Image.fromarray(ramp), return_tensors="np"
    )["pixel_values"][0]
    ours, _ = model.preprocessing(ramp)
    assert np.abs(theirs - ours).max() < 3 / 255 / 0.224


def test_other_positions_are_warned_about(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="by 'bicubic', not by 'bicubic_offset'"):
        make_backbone(positions="bicubic_offset").save_transformers(tmp_path / "hf")


def test_what_transformers_cannot_hold_is_listed(tmp_path: Path) -> None:
    overrides = {"stem": "conv", "class_token": False, "global_pool": "avg", "patch_size": 16}
    model = make_backbone(overrides=overrides, fit="pad")
    with pytest.raises(ConfigError) as caught:
        model.save_transformers(tmp_path / "hf")
    for fault in ("pooling", "stem", "preprocessing"):
        assert fault in str(caught.value)
    resnet = ImageBackbone(VisionTower("resnet18", image_size=64), model.preprocessing)
    with pytest.raises(ConfigError, match="found resnet18"):
        resnet.save_transformers(tmp_path / "hf")
    with pytest.raises(ConfigError, match="whole number, found a layer of 80 outputs"):
        make_backbone(overrides={**SCALED, "mlp_ratio": 2.5}).save_transformers(tmp_path / "hf")
    with pytest.raises(ConfigError, match=r"attn\.q_norm"):
        make_backbone(overrides={"qk_norm": True}).save_transformers(tmp_path / "hf")
    with pytest.raises(ConfigError, match="positions: expected a table"):
        make_backbone(overrides={"pos_embed": "none"}).save_transformers(tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("name", [*TOWERS, "resnet", "swin", "usual eps"])
@torch.no_grad()
def test_timm_computes_the_same(name: str, tmp_path: Path) -> None:
    if name in TOWERS:
        model = make_backbone(**TOWERS[name][1])
    elif name == "usual eps":
        model = make_backbone(overrides={"norm_eps": 1e-6})
    else:
        architecture = {"resnet": "resnet18", "swin": "swin_tiny_patch4_window7_224"}[name]
        tower = VisionTower(architecture, image_size=64)
        model = ImageBackbone(tower, make_backbone().preprocessing).eval()
    model.save_timm(tmp_path / "timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    state = model.vision.model.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in theirs.state_dict().items())
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(theirs(pixels), model(pixels).pooled, atol=1e-5, rtol=1e-4)
    data = timm.data.resolve_model_data_config(theirs)
    assert (list(data["input_size"]), data["crop_pct"]) == ([3, 64, 64], 1.0)
    assert tuple(data["mean"]) == model.preprocessing.mean
    back = ImageBackbone.from_pretrained(tmp_path / "timm")
    torch.testing.assert_close(back(pixels).pooled, model(pixels).pooled, atol=1e-5, rtol=1e-4)


def test_what_timm_cannot_be_told_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"norm_eps: timm would have 1e-06, found 0\.001"):
        make_backbone(overrides={"norm_eps": 1e-3}).save_timm(tmp_path / "timm")
    with pytest.raises(ConfigError, match="stem 'conv'"):
        make_backbone(overrides={"stem": "conv"}).save_timm(tmp_path / "timm")
    with pytest.raises(ConfigError, match="found pad"):
        make_backbone(fit="pad").save_timm(tmp_path / "timm")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="not empty"):
        make_backbone().save_timm(tmp_path / "full")
