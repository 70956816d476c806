"""Configurations become detectors; trained towers keep their weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModelWithProjection

from owlkit import DualEncoder, OwlDetector
from owlkit.build import build_detector
from owlkit.config import DetectorConfig, ModelSection, load_config
from owlkit.encoders import VisionTower
from owlkit.encoders.positions import published_positions, resample_positions
from owlkit.errors import CheckpointError, ConfigError, InputSizeError
from tests.encoders.test_hf_vision import copy_as_model_folder

SMALL_BERT: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}

CONFIGS = Path(__file__).parents[2] / "configs"


def tiny(*overrides: str) -> DetectorConfig:
    return load_config(CONFIGS / "owl_tiny.yaml", overrides)


def build(*overrides: str, seed: int = 0) -> OwlDetector:
    return build_detector(tiny(*overrides).model, seed=seed)


@torch.no_grad()
def test_a_tiny_detector_from_scratch(tokenizer_folder: Path) -> None:
    detector = build(f"model.text.tokenizer={tokenizer_folder}", "model.text.vocab_size=300")
    assert detector.training
    assert detector.preprocessing.size == (64, 64)
    features = detector.eval().encode_images(torch.randn(1, 3, 64, 64))
    scores = detector.score(features, detector.encode_strings(["a cat", "a dog"])).sigmoid()
    assert scores.shape == (1, 16, 2)
    assert scores.mean().item() < 0.15  # the prior is 0.01; random scales spread it


def test_the_seed_decides_the_weights_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first, same, other = build(seed=1), build(seed=1), build(seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [d.vision.model.blocks[0].attn.qkv.weight for d in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@torch.no_grad()
def test_starting_from_clip_resamples_positions_and_shortens_texts(
    golden: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy_as_model_folder(golden("03_towers") / "clip_gelu_eos", tmp_path)
    clip = DualEncoder.from_pretrained(folder)
    detector = build_detector(
        load_config(
            CONFIGS / "owl_b16.yaml",
            [
                f"model.init_from={folder}",
                "model.vision.image_size=96",
                "model.vision.drop_path=0.2",
                "model.text.context_length=8",
            ],
        ).model
    )
    assert detector.vision.grid == (6, 6)
    expected = resample_positions(
        clip.vision.model.pos_embed[:, 1:], (3, 3), (6, 6), mode="bilinear_aligned"
    )
    torch.testing.assert_close(detector.vision.model.pos_embed[:, 1:], expected)
    own, theirs = detector.vision.model.state_dict(), clip.vision.model.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in own if key != "pos_embed")
    assert detector.vision.model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    ids = torch.tensor([[77, 5, 6, 78]])
    torch.testing.assert_close(detector.text.eval()(ids), clip.text(ids))
    assert detector.text.context_length == 8
    assert torch.equal(detector.image_projection.weight, clip.image_projection.weight)


@torch.no_grad()
def test_starting_from_a_detector_keeps_its_heads(owlv2_folder: Path) -> None:
    source = OwlDetector.from_pretrained(owlv2_folder)
    config = load_config(CONFIGS / "finetune.yaml", [f"model.init_from={owlv2_folder}"])
    detector = build_detector(config.model).eval()
    assert (source.preprocessing.fit, source.preprocessing.pad_value) == ("pad", 0.0)
    assert detector.preprocessing == source.preprocessing
    assert (detector.convention.name, detector.merge) == ("hf", "class_token")
    assert detector.vision.image_size == source.vision.image_size
    ours, theirs = detector.state_dict(), source.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert detector.tokenizer is not None
    assert detector.convention == source.convention


def changed_detector(folder: Path) -> OwlDetector:
    """A detector none of whose choices are the published ones."""
    words = ["model.heads.merge=none", "model.heads.objectness=true", "model.convention=hf"]
    words += ["model.vision.image_size=96", "model.text.context_length=24"]
    words += [f"model.preprocessing.{word}" for word in ("fit=crop", "resample=bicubic")]
    words += ["model.preprocessing.pad_value=0.25", "model.preprocessing.mean=[0.1, 0.2, 0.3]"]
    detector = build(*words)
    detector.save_pretrained(folder)
    return detector


def test_a_detector_keeps_every_choice_that_is_not_stated(tmp_path: Path) -> None:
    source = changed_detector(tmp_path)
    same = build_detector(ModelSection(init_from=str(tmp_path)))
    assert (same.merge, same.convention, same.preprocessing) == (
        *(source.merge, source.convention, source.preprocessing),
    )
    assert (same.vision.image_size, same.text.context_length) == ((96, 96), 24)
    own, theirs = same.state_dict(), source.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[key], theirs[key]) for key in own)


def test_what_is_stated_changes_a_detector(tmp_path: Path) -> None:
    changed_detector(tmp_path)
    stated: dict[str, Any] = {
        "init_from": str(tmp_path),
        "convention": "scenic",
        "heads": {"merge": "class_token", "objectness": False},
        "vision": {"image_size": 64},
        "text": {"context_length": 8},
        "preprocessing": {"fit": "pad", "resample": "gaussian", "pad_value": 0.0},
    }
    other = build_detector(ModelSection.model_validate(stated))
    assert (other.convention.name, other.merge, other.objectness_head) == (
        *("scenic", "class_token", None),
    )
    assert (other.preprocessing.size, other.text.context_length) == ((64, 64), 8)
    assert (other.preprocessing.fit, other.preprocessing.resample) == ("pad", "gaussian")
    assert (other.preprocessing.pad_value, other.preprocessing.mean) == (0.0, (0.1, 0.2, 0.3))


def test_towers_keep_their_own_image_size(golden: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_as_model_folder(golden("03_towers") / "clip_gelu_eos", tmp_path)
    clip = DualEncoder.from_pretrained(folder)
    detector = build_detector(ModelSection(init_from=str(folder)))
    assert detector.preprocessing.size == clip.vision.image_size
    assert torch.equal(detector.vision.model.pos_embed, clip.vision.model.pos_embed)
    published = (detector.preprocessing.fit, detector.preprocessing.pad_value, detector.merge)
    assert published == ("pad", 0.5, "class_token")
    assert detector.text.context_length == min(16, clip.text.context_length)


def test_folders_are_filled_in(
    owlv2_folder: Path,
    tokenizer_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    BertModel(BertConfig(**SMALL_BERT)).save_pretrained(tmp_path / "text")
    monkeypatch.setenv("OWL", str(owlv2_folder))
    monkeypatch.setenv("TOKENIZER", str(tokenizer_folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build_detector(ModelSection(init_from="$OWL")).tokenizer is not None
    text = ["model.text.weights=~/text", "model.text.tokenizer=$TOKENIZER"]
    detector = build(*CLEARED, "model.vision.weights=$OWL", *text, "model.vision.image_size=64")
    assert detector.tokenizer is not None
    monkeypatch.delenv("OWL")
    with pytest.raises(ConfigError, match=r"^model\.init_from: \$OWL names an environment"):
        build_detector(ModelSection(init_from="$OWL"))
    with pytest.raises(ConfigError, match=r"^model\.vision\.weights: \$OWL names"):
        build("model.vision.weights=$OWL", "model.vision.overrides={}")


def test_a_text_tower_brings_its_projection(tokenizer_folder: Path, tmp_path: Path) -> None:
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    ids = {"vocab_size": 300, "eos_token_id": 299, "bos_token_id": 298, "pad_token_id": 0}
    config = CLIPTextConfig(**size, **ids, num_attention_heads=2, projection_dim=24)
    model = CLIPTextModelWithProjection(config)
    model.save_pretrained(tmp_path)
    tower = [f"model.text.weights={tmp_path}", f"model.text.tokenizer={tokenizer_folder}"]
    detector = build(*CLEARED[1:], *tower)
    assert torch.equal(detector.text.projection.weight, model.text_projection.weight)
    assert build(*CLEARED[1:-1], *tower, "model.text.embed_width=8").text.width == 8


def test_a_context_that_cannot_be_had_is_refused(
    golden: Callable[[str], Path], tokenizer_folder: Path, tmp_path: Path
) -> None:
    siglip = copy_as_model_folder(golden("03_towers") / "siglip", tmp_path / "siglip")
    start = ModelSection.model_validate(
        {"init_from": str(siglip), "heads": {"merge": "none"}, "text": {"context_length": 10}}
    )
    assert build_detector(start).text.context_length == 10
    for length, message in (
        (8, "expected 10 or null, .* found 8"),
        (12, "expected at most the 10 .* 12"),
    ):
        text = start.text.model_copy(update={"context_length": length})
        with pytest.raises(ConfigError, match=rf"^model\.text\.context_length: {message}"):
            build_detector(start.model_copy(update={"text": text}))
    BertModel(BertConfig(**SMALL_BERT)).save_pretrained(tmp_path / "text")
    words = [f"model.text.weights={tmp_path / 'text'}", f"model.text.tokenizer={tokenizer_folder}"]
    shorter = build(*CLEARED[1:], *words, "model.text.context_length=8")
    assert shorter.tokenizer is not None
    assert shorter.tokenizer.context_length == 8
    with pytest.raises(ConfigError, match="at most the 40 tokens"):
        build(*CLEARED[1:], *words, "model.text.context_length=41")


@torch.no_grad()
def test_vision_weights_from_timms_folder(tmp_path: Path) -> None:
    small: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 4}
    name = "vit_base_patch16_clip_quickgelu_224"
    model = timm.create_model(name, img_size=64, num_classes=5, **small).eval()
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 64, 64)}
    save_for_hf(model, tmp_path, model_args={**small, "img_size": 64}, safe_serialization=True)
    for path in tmp_path.glob("*.bin"):
        path.unlink()
    tower = VisionTower.from_pretrained(tmp_path)
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(tower(image).tokens, model.forward_features(image)[:, 1:])
    detector = build(f"model.vision.weights={tmp_path}", "model.vision.overrides={}")
    assert torch.equal(
        detector.vision.model.blocks[0].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight
    )


def test_a_tower_of_a_detector_can_be_reused(owlv2_folder: Path, tmp_path: Path) -> None:
    detector = OwlDetector.from_pretrained(owlv2_folder)
    detector.save_pretrained(tmp_path / "detector")
    tower = VisionTower.from_pretrained(tmp_path / "detector")
    own = detector.vision.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in tower.state_dict().items())


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("vit_small_patch14_dinov2.lvd142m", "bicubic_offset"),
        ("vit_small_patch14_reg4_dinov2.lvd142m", "bicubic_antialias"),
        ("vit_small_patch16_224.dino", "bicubic_offset"),
        ("vit_base_patch16_clip_quickgelu_224.openai", "bicubic"),
    ],
)
def test_published_position_rules(name: str, mode: str) -> None:
    assert published_positions(name) == mode


def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer_folder: Path) -> None:
    tokenizer = f"model.text.tokenizer={tokenizer_folder}"
    with pytest.raises(CheckpointError, match="300 ids, 200 embeddings"):
        build(tokenizer, "model.text.vocab_size=200")
    with pytest.raises(CheckpointError, match="id 299, the tower looks for 2047"):
        build(tokenizer, "model.text.vocab_size=2048")
    build(tokenizer)  # if it may, the tower takes the tokenizer's size


def test_feature_maps_with_a_wider_pool_need_another_merge() -> None:
    scratch = ["model.vision.overrides={}", "model.vision.image_size=64"]
    detector = build("model.vision.name=resnet50_clip", *scratch)
    assert detector.vision.width == detector.vision.pooled_width == 2048
    with pytest.raises(ConfigError, match="merge 'none'"):
        build("model.vision.name=mobilenetv3_small_050", *scratch)
    build("model.vision.name=mobilenetv3_small_050", "model.heads.merge=none", *scratch)


def test_colours_belong_to_the_weights(golden: Callable[[str], Path], tmp_path: Path) -> None:
    siglip = copy_as_model_folder(golden("03_towers") / "siglip", tmp_path / "siglip")
    merge = ["model.vision.image_size=48", "model.heads.merge=none"]
    detector = build(f"model.init_from={siglip}", *merge, *CLEARED)
    assert detector.preprocessing.mean == (0.5, 0.5, 0.5)
    assert detector.text.context_length == 10
    dino = copy_as_model_folder(golden("03_towers") / "dinov2_registers", tmp_path / "dino")
    settings = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (dino / "preprocessor_config.json").write_text(json.dumps(settings))
    options = ["model.vision.image_size=56", "model.vision.overrides={}"]
    detector = build(f"model.vision.weights={dino}", *options)
    assert detector.preprocessing.mean == (0.485, 0.456, 0.406)
    assert detector.vision.positions == "bicubic_antialias"
    chosen = build(f"model.vision.weights={dino}", *options, "model.preprocessing.mean=[0,0,0]")
    assert chosen.preprocessing.mean == (0.0, 0.0, 0.0)


CLEARED = [
    "model.vision.overrides={}",
    *(f"model.text.{key}={value}" for key, value in (("width", 512), ("depth", 12), ("heads", 8))),
    "model.text.embed_width=",
]


def test_a_multilingual_encoder_brings_its_pool_and_tokenizer(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    BertModel(BertConfig(**SMALL_BERT)).save_pretrained(tmp_path)
    for path in tokenizer_folder.iterdir():
        shutil.copy(path, tmp_path)
    detector = build(f"model.text.weights={tmp_path}", *CLEARED[1:])
    assert detector.text.pool == "mean"
    assert detector.tokenizer is not None
    assert detector.tokenizer.context_length == 40
    assert detector.encode_strings(["eine rote Tasse", "a red mug"]).shape == (2, 32)


def test_image_sizes_off_the_patch_grid_are_refused() -> None:
    with pytest.raises(InputSizeError, match="16x16"):
        build("model.vision.image_size=65")
