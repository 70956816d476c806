"""Image towers of Hugging Face checkpoints, against the outputs of transformers."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Dinov2Config, ViTConfig

from owlkit.encoders import VisionTower
from owlkit.encoders.hf_vision import from_timm_state, vision_tower_from_config
from owlkit.errors import CheckpointError

CLIP_TOWERS = ("clip_gelu_eos", "clip_legacy_eos")
TOWERS = (*CLIP_TOWERS, "siglip", "dinov2", "dinov2_registers", "dinov2_swiglu", "vit")


def copy_as_model_folder(fixture: Path, folder: Path) -> Path:
    """Lays a fixture out as a checkpoint."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes((fixture / "config.json").read_bytes())
    save_file(load_file(fixture / "state_dict.safetensors"), folder / "model.safetensors")
    return folder


@pytest.fixture(params=TOWERS)
def case(
    request: pytest.FixtureRequest, golden: Callable[[str], Path], tmp_path: Path
) -> tuple[str, VisionTower, Path]:
    fixture = golden("03_towers") / request.param
    tower = VisionTower.from_pretrained(copy_as_model_folder(fixture, tmp_path / "model"))
    return request.param, tower, fixture


@pytest.mark.parametrize("prefix", ["", "odd_"], ids=["native size", "other size"])
@torch.no_grad()
def test_tokens_and_pooled_vector_match(case: tuple[str, VisionTower, Path], prefix: str) -> None:
    name, tower, fixture = case
    inputs, outputs = np.load(fixture / "inputs.npz"), np.load(fixture / "outputs.npz")
    tolerance = json.loads((fixture / "tolerance.json").read_text())
    vision = "" if f"{prefix}last_hidden_state" in outputs else "vision_"
    key = f"{prefix}{vision}last_hidden_state"
    expected = torch.from_numpy(outputs[key])
    if name in CLIP_TOWERS:
        # transformers stops before CLIP's last norm; the tower's patches have passed it.
        expected = tower.model.norm(expected)
    pixels = torch.from_numpy(inputs["pixel_values_odd" if prefix else "pixel_values"])
    features = tower(pixels)
    skipped = expected.shape[1] - features.tokens.shape[1]
    assert features.grid[0] * features.grid[1] == features.tokens.shape[1]
    torch.testing.assert_close(features.tokens, expected[:, skipped:], atol=tolerance[key], rtol=0)
    pooled = expected[:, 0]
    if name == "siglip":
        assert f"{prefix}vision_pooler_output" in outputs or prefix
        if prefix:
            return
        pooled = torch.from_numpy(outputs["vision_pooler_output"])
    torch.testing.assert_close(features.pooled, pooled, atol=tolerance[key], rtol=0)


@pytest.mark.parametrize("name", ["dinov2", "dinov2_registers", "dinov2_swiglu"])
@torch.no_grad()
def test_masked_patches_match(golden: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    fixture = golden("03_towers") / name
    tower = VisionTower.from_pretrained(copy_as_model_folder(fixture, tmp_path))
    inputs, outputs = np.load(fixture / "inputs.npz"), np.load(fixture / "outputs.npz")
    mask = torch.from_numpy(inputs["bool_masked_pos"])
    features = tower(torch.from_numpy(inputs["pixel_values"]), mask=mask)
    expected = torch.from_numpy(outputs["masked_last_hidden_state"])[:, -mask.shape[1] :]
    torch.testing.assert_close(features.tokens, expected, atol=2e-5, rtol=0)


def _old_spelling(key: str) -> str:
    """Names of ViT's and DINOv2's parts before transformers 5."""
    key = re.sub(r"attention\.([qkv])_proj", lambda m: f"attention.attention.{_FULL[m[1]]}", key)
    key = key.replace("attention.o_proj", "attention.output.dense")
    if key.startswith("layers."):
        key = f"encoder.layer.{key.removeprefix('layers.')}"
        key = key.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
    return key


_FULL = {"q": "query", "k": "key", "v": "value"}


@pytest.mark.parametrize("name", ["vit", "dinov2"])
@torch.no_grad()
def test_checkpoints_of_older_releases_load(
    golden: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    fixture = golden("03_towers") / name
    new = VisionTower.from_pretrained(copy_as_model_folder(fixture, tmp_path / "new"))
    old_folder = copy_as_model_folder(fixture, tmp_path / "old")
    state = load_file(old_folder / "model.safetensors")
    renamed = {f"{name}.{_old_spelling(key)}": value for key, value in state.items()}
    assert set(renamed) != {f"{name}.{key}" for key in state}
    save_file(renamed, old_folder / "model.safetensors")
    old = VisionTower.from_pretrained(old_folder)
    for key, value in new.state_dict().items():
        assert torch.equal(value, old.state_dict()[key]), key


def test_what_does_not_fit_is_listed_whole(golden: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_as_model_folder(golden("03_towers") / "vit", tmp_path)
    state = load_file(folder / "model.safetensors")
    del state["layernorm.bias"]
    state["surprise"] = torch.zeros(2)
    state["layernorm.weight"] = torch.zeros(7)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        VisionTower.from_pretrained(folder)
    message = str(caught.value)
    assert "missing: model.norm.bias [48]" in message
    assert "unexpected: model.surprise [2]" in message
    assert "shape of model.norm.weight: expected [48], found [7]" in message


def test_unsupported_model_type_names_the_supported_ones() -> None:
    with pytest.raises(CheckpointError, match=r"clip_vision_model.*found 'bit'"):
        vision_tower_from_config({"model_type": "bit"})


def test_swiglu_gates_by_silu_unless_told_otherwise() -> None:
    def gate(**overrides: str) -> nn.Module:
        sizes = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8}
        tower = VisionTower(
            "vit_small_patch16_224",
            image_size=32,
            overrides={**sizes, "mlp": "swiglu", **overrides},
        )
        return tower.model.blocks[0].mlp.act

    assert isinstance(gate(), nn.SiLU)
    assert type(gate(act_layer="gelu")).__name__ == "GELU"  # timm's own class


def test_swiglu_width_is_rounded_up_as_published() -> None:
    config = Dinov2Config(hidden_size=1536, num_hidden_layers=1, use_swiglu_ffn=True)
    tower = vision_tower_from_config(config.to_dict())
    assert tower.model.blocks[0].mlp.fc2.in_features == 4096


def test_awkward_mlp_widths_are_met_exactly() -> None:
    config = ViTConfig(
        hidden_size=48, intermediate_size=145, num_attention_heads=4, num_hidden_layers=1
    )
    tower = vision_tower_from_config(config.to_dict())
    assert tower.model.blocks[0].mlp.fc1.out_features == 145


def test_towers_without_a_place_in_the_clip_layout_are_refused() -> None:
    overrides: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 2, "reg_tokens": 2}
    tower = VisionTower("vit_tiny_patch16_224", image_size=32, overrides=overrides)
    with pytest.raises(CheckpointError, match="reg_token"):
        from_timm_state(tower, pre_norm_name="pre_layernorm")
