"""Every published configuration loads, and its model can be built."""

from pathlib import Path

import pytest
import torch
import yaml

from owlkit.build import build_backbone, build_detector, build_dual_encoder
from owlkit.config import (
    ContrastiveConfig,
    DetectorConfig,
    RunConfig,
    SelfSupervisedConfig,
    load_config,
)

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
NAMES = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in FILES]
READ = {path: yaml.safe_load(path.read_text()) for path in FILES}
# Only self-supervised pretraining has one of these objectives, ...
SELF_SUPERVISED = [
    path for path in FILES if READ[path].get("loss", {}).get("objective") in ("dino", "mae", "byol")
]
# ... and of the others, only stage one learns from captions, classes or shards.
CONTRASTIVE = [
    path
    for path in FILES
    if path not in SELF_SUPERVISED
    and {"captions", "classes", "shards"} & set(READ[path].get("data", {}).get("train", {}))
]

# Side of the input in pixels and of the grid in patches.
PUBLISHED = {
    "owl_b32": (768, 24),
    "owl_b16": (768, 48),
    "owl_l14": (840, 60),
    "owlv2_b16": (960, 60),
    "owlv2_l14": (1008, 72),
}


def schema_of(path: Path) -> type[RunConfig]:
    if path in SELF_SUPERVISED:
        return SelfSupervisedConfig
    return ContrastiveConfig if path in CONTRASTIVE else DetectorConfig


def load(path: Path, *overrides: str) -> RunConfig:
    return load_config(path, overrides, schema=schema_of(path))


def random_weights(path: Path) -> list[str]:
    """Overrides for a machine without network and trained tokenizer: one block, random weights."""
    config = load(path)
    if isinstance(config, SelfSupervisedConfig):
        vit = config.model.vision.name.startswith("vit")
        return ["model.vision.overrides.depth=1"] if vit else []
    assert isinstance(config, DetectorConfig | ContrastiveConfig)
    words = ["model.text.depth=1", "model.text.tokenizer="]
    if config.model.text.weights is not None:
        words[0] = "model.text.weights="
    if config.model.vision.name.startswith("vit"):
        words += ["model.vision.overrides.depth=1", "model.vision.weights=random"]
    source = config.model.init_from
    if source is None:
        return words
    patch = next((size for size in (32, 14) if f"patch{size}" in source), 16)
    size = "large" if "large" in source else "base"
    name = f"vit_{size}_patch{patch}_clip_quickgelu_224"
    return [
        *words,
        "model.init_from=",
        f"model.vision.name={name}",
        "model.vision.overrides.depth=1",
    ]


def test_all_kinds_are_there() -> None:
    assert {"owl_b32", "owlv2_l14", "quickstart/detector"} <= set(NAMES)
    stage_one = {"clip_b32", "clip_b16", "clip_rn50", "siglip_b16", "lit_b16", "quickstart/clip"}
    assert {CONFIGS / f"{name}.yaml" for name in stage_one} <= set(CONTRASTIVE)
    alone = {
        *("dino_s16", "dino_rn50", "dino_swin_t", "dinov2_s14", "mae_b16", "byol_rn50"),
        *(f"cifar10_{objective}" for objective in ("dino", "dinov2", "mae", "byol")),
        "quickstart/dino",
    }
    assert {CONFIGS / f"{name}.yaml" for name in alone} == set(SELF_SUPERVISED)


def test_dinov2_has_gated_layers_of_the_published_kind() -> None:
    """SiLU gates, two thirds of the usual hidden width rounded up to a multiple of 8."""
    path = CONFIGS / "dinov2_s14.yaml"
    config = load(path, *random_weights(path))
    assert isinstance(config, SelfSupervisedConfig)
    vision = build_backbone(config.model, mask_token=True).vision
    mlp = vision.model.blocks[0].mlp
    assert isinstance(mlp.act, torch.nn.SiLU)
    assert mlp.fc2.in_features == 1024


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_it_loads_says_how_it_is_run_and_what_came_of_it(path: Path) -> None:
    config = load(path)
    assert config.optim.warmup_steps + config.optim.cooldown_steps < config.train.steps
    comment = path.read_text().partition("\nmodel:")[0]
    command = path.relative_to(CONFIGS.parent).as_posix()
    assert f".py {command}" in comment
    assert "# Result: " in comment


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_its_model_can_be_built(path: Path) -> None:
    config = load(path, *random_weights(path))
    side = config.model.vision.image_size or 768  # type: ignore[attr-defined]
    if isinstance(config, SelfSupervisedConfig):
        masked = config.loss.dino.ibot_weight > 0
        backbone = build_backbone(config.model, mask_token=masked)
        assert backbone.preprocessing.size == (side, side)
        assert (backbone.vision.mask_token is not None) == masked
        return
    if isinstance(config, ContrastiveConfig):
        model = build_dual_encoder(config.model, loss=config.loss)
        assert (model.logit_bias is not None) == (config.loss.objective == "siglip")
    else:
        assert isinstance(config, DetectorConfig)
        model = build_detector(config.model)
        assert (model.objectness_head is not None) == bool(config.model.heads.objectness)
        if config.loss.objectness_top_k is not None:
            left = model.vision.grid[0] ** 2 * (1 - config.loss.drop_patches)
            assert config.loss.objectness_top_k < left
    assert model.preprocessing.size == (side, side)
    patches = model.vision.grid[0]
    assert model.vision.grid == (patches, patches)
    assert PUBLISHED.get(path.stem, (side, patches)) == (side, patches)
    assert model.text.context_length == (config.model.text.context_length or 16)  # type: ignore[attr-defined]
