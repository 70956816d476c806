"""Every weight in exactly one group, at its rate, with or without decay."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from owlkit.build import build_detector
from owlkit.config import OptimSection, load_config
from owlkit.encoders import VisionTower
from owlkit.engine.parameter_groups import (
    freeze_parts,
    make_optimizer,
    parameter_groups,
    part_of,
    towers_of,
)
from owlkit.errors import ConfigError, MissingDependencyError
from owlkit.models import OwlDetector

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def detector() -> OwlDetector:
    config = load_config(CONFIGS / "owl_tiny.yaml", ["model.heads.objectness=true"])
    return build_detector(config.model)


class Wrapped(nn.Module):
    """A task: the model under a name of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def by_name(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        for name, _ in group["params"]:
            assert name not in found, f"{name} is in two groups"
            found[name] = group
    return found


@pytest.mark.parametrize("layer_decay", [1.0, 0.7])
def test_no_weight_is_lost_or_doubled(detector: OwlDetector, layer_decay: float) -> None:
    optim = OptimSection(layer_decay=layer_decay, text_lr=2e-6, heads_lr=1e-4, weight_decay=0.1)
    found = by_name(parameter_groups(Wrapped(detector), optim))
    learning = {f"model.{name}" for name, p in detector.named_parameters() if p.requires_grad}
    assert found.keys() == learning
    assert "model.logit_scale" not in found  # carried along, never trained


def test_each_part_has_its_rate(detector: OwlDetector) -> None:
    found = by_name(parameter_groups(detector, OptimSection(lr=1e-3, text_lr=1e-5)))
    assert found["vision.model.blocks.0.attn.qkv.weight"]["lr"] == 1e-3
    assert found["text.projection.weight"]["lr"] == 1e-5
    assert found["merge_norm.weight"]["lr"] == 1e-3
    assert {group["part"] for group in found.values()} == {"image", "text", "heads"}


def test_only_kernels_decay(detector: OwlDetector) -> None:
    """An independent list: what scenic calls a kernel is a matrix of a linear or convolution."""
    kernels = {
        f"{name}.weight"
        for name, module in detector.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    found = by_name(parameter_groups(detector, OptimSection(weight_decay=0.1)))
    decayed = {name for name, group in found.items() if group["weight_decay"] == 0.1}
    assert decayed == kernels
    spared = {name for name, group in found.items() if group["weight_decay"] == 0.0}
    for part in ("pos_embed", "cls_token", "token_embedding", "position_embedding", "norm1.weight"):
        assert any(part in name for name in spared), part


def test_layer_decay_on_a_detector(detector: OwlDetector) -> None:
    """Two blocks: embeddings are three steps below the top, the blocks two and one."""
    found = by_name(parameter_groups(detector, OptimSection(lr=1.0, layer_decay=0.5)))
    expected = {
        "vision.model.pos_embed": 0.125,
        "vision.model.patch_embed.proj.weight": 0.125,
        "vision.model.norm_pre.weight": 0.125,
        "vision.model.blocks.0.mlp.fc1.bias": 0.25,
        "vision.model.blocks.1.attn.proj.weight": 0.5,
        "vision.model.norm.weight": 1.0,
        "text.projection.weight": 1.0,
        "class_head.dense.weight": 1.0,
    }
    for name, rate in expected.items():
        assert found[name]["lr"] == found[name]["peak_lr"] == rate, name
    for name, group in found.items():
        if name.startswith("text.model"):
            level = 0 if "embedding" in name else 3
            for number in (0, 1):
                level = number + 1 if f"layers.{number}." in name else level
            assert group["lr"] == 0.5 ** (3 - level), name


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("resnet18", 4), ("convnext_atto", 4), ("swin_tiny_patch4_window7_224", 4)],
)
def test_layer_decay_knows_stages(name: str, blocks: int) -> None:
    sizes: dict[str, Any] = {
        "convnext_atto": {"depths": (1, 1, 2, 1), "dims": (8, 8, 8, 8)},
        "swin_tiny_patch4_window7_224": {"depths": (1, 1, 2, 1), "embed_dim": 24},
    }
    task = nn.ModuleDict({"vision": VisionTower(name, overrides=sizes.get(name))})
    found = by_name(parameter_groups(task, OptimSection(lr=1.0, layer_decay=0.5)))
    rates = sorted({group["lr"] for group in found.values()})
    # A ResNet has nothing behind its last stage, where the others have a norm.
    top = [] if name == "resnet18" else [1.0]
    assert rates == [0.5 ** (blocks + 1 - level) for level in range(blocks + 1)] + top
    assert next(iter(found.values()))["lr"] == 0.5 ** (blocks + 1)


def test_a_frozen_part_keeps_its_weights_and_statistics() -> None:
    model = nn.ModuleDict(
        {"vision": nn.BatchNorm1d(2), "text": nn.BatchNorm1d(2), "head": nn.Linear(2, 1)}
    )
    freeze_parts(model, model, ("image",))
    assert not model["vision"].training
    assert model["text"].training
    found = by_name(parameter_groups(model, OptimSection()))
    assert found.keys() == {"text.weight", "text.bias", "head.weight", "head.bias"}
    freeze_parts(model, model, ("text", "heads"))
    with pytest.raises(ConfigError, match="leaves no weight to learn"):
        parameter_groups(model, OptimSection(freeze=("image", "text", "heads")))


def test_parts_go_by_the_first_name() -> None:
    assert part_of("model.vision.model.text.weight") == "image"
    assert part_of("textual.weight") == "heads"
    model = nn.ModuleDict({"text": nn.Linear(1, 1)})
    assert towers_of(model) == {"text": model["text"]}


class Taught(Wrapped):
    """A student beside the model around its teacher, which comes first and does not learn."""

    def __init__(self) -> None:
        overrides = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        towers = [
            VisionTower("vit_small_patch16_224", image_size=32, overrides=overrides)
            for _ in range(2)
        ]
        super().__init__(nn.ModuleDict({"vision": towers[0]}).requires_grad_(False))
        self.student = nn.ModuleDict({"vision": towers[1], "head": nn.Linear(32, 8)})


def test_a_student_learns_like_a_model_of_its_own() -> None:
    """Layer decay counts its blocks alone; the patch embedding has a factor of its own."""
    optim = OptimSection(lr=1.0, heads_lr=2.0, layer_decay=0.5, embed_lr_factor=0.2)
    found = by_name(parameter_groups(Taught(), optim))
    expected = {
        "student.vision.model.pos_embed": ("image", 0.125),
        "student.vision.model.patch_embed.proj.weight": ("image", 0.025),
        "student.vision.model.patch_embed.proj.bias": ("image", 0.025),
        "student.vision.model.blocks.0.attn.proj.weight": ("image", 0.25),
        "student.vision.model.norm.weight": ("image", 1.0),
        "student.head.weight": ("heads", 2.0),
    }
    for name, (part, rate) in expected.items():
        assert (found[name]["part"], found[name]["peak_lr"]) == (part, pytest.approx(rate)), name
    assert all(name.startswith("student.") for name in found)


def test_a_factor_for_no_patch_embedding_is_refused() -> None:
    task = nn.ModuleDict({"vision": VisionTower("resnet18")})
    with pytest.raises(ConfigError, match="expected an image tower with a patch embedding"):
        parameter_groups(task, OptimSection(embed_lr_factor=0.2))


def test_momentum_by_hand() -> None:
    """``v = 0.5 v + g + decay w``, ``w -= lr v``, twice."""
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(2.0)
    optim = OptimSection(optimizer="sgd", lr=0.1, weight_decay=0.5, betas=(0.5, 0.9))
    optimizer = make_optimizer(layer, optim)
    weight, velocity = 2.0, 0.0
    for gradient in (3.0, -1.0):
        layer.weight.grad = torch.tensor([[gradient]])
        optimizer.step()
        velocity = 0.5 * velocity + gradient + 0.5 * weight
        weight -= 0.1 * velocity
    assert layer.weight.item() == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize(("kind", "decoupled"), [("adamw", True), ("adam", False)])
def test_the_first_step_by_hand(kind: str, decoupled: bool) -> None:
    """One update from zero moments: ``lr * g / (|g| + eps)``, decay beside or inside of g."""
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(2.0)
    optim = OptimSection(optimizer=kind, lr=0.1, weight_decay=0.5, eps=1.0)
    optimizer = make_optimizer(layer, optim)
    layer.weight.grad = torch.tensor([[3.0]])
    optimizer.step()
    if decoupled:
        expected = 2.0 * (1 - 0.1 * 0.5) - 0.1 * 3.0 / (3.0 + 1.0)
    else:
        expected = 2.0 - 0.1 * 4.0 / (4.0 + 1.0)
    assert layer.weight.item() == pytest.approx(expected, rel=1e-6)


def test_the_convolutions_of_a_stem_are_no_blocks() -> None:
    """They all embed: layer decay takes them together, below the first block."""
    overrides = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "stem": "conv"}
    tower = VisionTower("vit_base_patch16_clip_quickgelu_224", image_size=32, overrides=overrides)
    task = nn.ModuleDict({"vision": tower})
    rates = {
        name: group["peak_lr"]
        for group in parameter_groups(task, OptimSection(lr=1.0, layer_decay=0.5))
        for name, _ in group["params"]
    }
    stem = {rate for name, rate in rates.items() if ".patch_embed." in name}
    assert stem == {rates["vision.model.pos_embed"]}
    assert max(stem) < rates["vision.model.blocks.0.norm1.weight"]


def test_moments_of_eight_bits_follow_adamw() -> None:
    """A quarter of the memory; a step differs from the exact one by the rounding of moments."""
    weights, moments = {}, {}
    for kind in ("adamw", "adamw8bit"):
        torch.manual_seed(0)
        layer = nn.Linear(64, 128, bias=False)
        optim = OptimSection(optimizer=kind, lr=0.01, weight_decay=0.1)
        optimizer = make_optimizer(layer, optim)
        for _ in range(5):
            for group in optimizer.param_groups:
                group["lr"] = 0.02
            layer.weight.grad = torch.randn(128, 64)
            optimizer.step()
        weights[kind] = layer.weight.detach()
        slots = optimizer.state[layer.weight]
        moments[kind] = slots["exp_avg"] if kind == "adamw" else slots["state1"]
    assert moments["adamw8bit"].dtype == torch.uint8
    assert moments["adamw8bit"].shape == moments["adamw"].shape
    torch.manual_seed(0)
    moved = (weights["adamw"] - nn.Linear(64, 128, bias=False).weight).abs().mean()
    off = (weights["adamw"] - weights["adamw8bit"]).abs().mean()
    assert 0 < off < 0.05 * moved


def test_missing_bitsandbytes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim.adamw", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'owlkit\[train\]'"):
        make_optimizer(nn.Linear(2, 2), OptimSection(optimizer="adamw8bit"))
