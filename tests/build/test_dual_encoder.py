"""Configurations of stage one become pairs of encoders; trained weights are kept."""

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from owlkit import DualEncoder
from owlkit.build import build_dual_encoder
from owlkit.config import ContrastiveLossSection, DualEncoderSection
from owlkit.errors import ConfigError
from tests.build.test_detector import SMALL_BERT

SIGLIP = ContrastiveLossSection(objective="siglip")
VISION = {
    "name": "vit_base_patch16_siglip_224",
    "image_size": 32,
    "init": "timm",
    "overrides": {"embed_dim": 32, "depth": 1, "num_heads": 2},
}
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
TOWER |= {"num_attention_heads": 2}


def section(**values: Any) -> DualEncoderSection:
    return DualEncoderSection.model_validate(values)


def same(ours: DualEncoder, other: DualEncoder, *, but: tuple[str, ...] = ()) -> bool:
    theirs = other.state_dict()
    return all(
        torch.equal(value, theirs[name])
        for name, value in ours.state_dict().items()
        if name not in but
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP as transformers saves it, with a temperature of its own."""
    torch.manual_seed(0)
    text = {**TOWER, "vocab_size": 300, "max_position_embeddings": 20, "eos_token_id": 299}
    vision = {**TOWER, "image_size": 32, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    model.logit_scale.data.fill_(1.5)
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    return folder


def test_a_siglip_from_scratch(tmp_path: Path) -> None:
    text = {"architecture": "siglip", "width": 32, "depth": 1, "heads": 2, "embed_width": 32}
    text |= {"vocab_size": 300, "context_length": 12}
    model = build_dual_encoder(
        section(vision=VISION, text=text, image_projection=False), loss=SIGLIP, batch_size=512
    )
    assert model.logit_scale.item() == pytest.approx(math.log(10))
    assert model.logit_bias is not None
    assert model.logit_bias.item() == pytest.approx(-math.log(511))
    assert model.text.needs_full_length
    # A text is seen from both sides: its first token changes with its last.
    ids = torch.randint(2, 300, (1, 12))
    changed = ids.clone()
    changed[0, 0] = 1 + ids[0, 0] % 299
    model.eval()
    assert not torch.allclose(model.encode_text(ids), model.encode_text(changed))
    model.save_pretrained(tmp_path / "model")
    again = DualEncoder.from_pretrained(tmp_path / "model")
    assert same(again, model)


def test_a_clip_goes_on_as_it_is(clip: Path) -> None:
    source = DualEncoder.from_pretrained(clip)
    model = build_dual_encoder(section(init_from=str(clip)))
    assert model.training
    assert same(model, source)
    assert model.preprocessing == source.preprocessing
    assert model.text.context_length == 20
    larger = build_dual_encoder(section(init_from=str(clip), vision={"image_size": 64}))
    assert larger.preprocessing.size == (64, 64)
    assert larger.vision.grid == (4, 4)


def test_the_loss_decides_about_the_bias(clip: Path, tmp_path: Path) -> None:
    biased = build_dual_encoder(section(init_from=str(clip)), loss=SIGLIP, batch_size=8)
    source = DualEncoder.from_pretrained(clip)
    assert same(biased, source, but=("logit_bias", "logit_scale"))
    assert biased.logit_scale.exp().item() == pytest.approx(10)
    assert biased.logit_bias is not None
    assert biased.logit_bias.item() == pytest.approx(-math.log(7))
    with torch.no_grad():
        biased.logit_bias.fill_(-3.25)
    biased.save_pretrained(tmp_path / "biased")
    start = section(init_from=str(tmp_path / "biased"))
    kept = build_dual_encoder(start, loss=SIGLIP).logit_bias
    assert kept is not None
    assert kept.item() == -3.25
    assert build_dual_encoder(start).logit_bias is None
    scale = ContrastiveLossSection(logit_scale=20.0)
    assert build_dual_encoder(start, loss=scale).logit_scale.exp().item() == pytest.approx(20)


def test_a_published_siglip_goes_on(tmp_path: Path) -> None:
    text = {**TOWER, "vocab_size": 300, "max_position_embeddings": 12, "projection_size": 32}
    vision = {**TOWER, "image_size": 32, "patch_size": 16}
    published = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    published.logit_bias.data.fill_(-12.0)
    published.save_pretrained(tmp_path)
    model = build_dual_encoder(section(init_from=str(tmp_path)), loss=SIGLIP)
    assert model.image_projection is None
    assert model.logit_bias is not None
    assert model.logit_bias.item() == -12.0
    assert same(model, DualEncoder.from_pretrained(tmp_path))


def test_a_trained_image_tower_sees_what_it_was_trained_on(tmp_path: Path) -> None:
    small: dict[str, Any] = {"depth": 1, "img_size": 32}
    folder, tower = tmp_path / "timm", timm.create_model("vit_tiny_patch16_224", **small)
    tower.pretrained_cfg = {**tower.pretrained_cfg, "input_size": (3, 32, 32)}
    save_for_hf(tower, folder, model_args=small, safe_serialization=True)
    text = {"width": 32, "depth": 1, "heads": 2, "embed_width": 16, "vocab_size": 300}
    own = build_dual_encoder(section(vision={"weights": str(folder)}, text=text)).preprocessing
    assert (own.fit, own.resample) == ("crop", "bicubic")
    assert own.mean == pytest.approx((0.5, 0.5, 0.5))
    stated = {"fit": "squash"}
    other = section(vision={"weights": str(folder)}, text=text, preprocessing=stated)
    assert build_dual_encoder(other).preprocessing.fit == "squash"
    assert build_dual_encoder(section(vision=VISION, text=text)).preprocessing.fit == "pad"


def test_recomputed_text_blocks_have_the_same_gradients_from_less_memory() -> None:
    gradients = []
    kept = [0, 0]
    for recompute in (False, True):
        text = {"width": 32, "depth": 2, "heads": 2, "embed_width": 16, "vocab_size": 300}
        text |= {"drop_path": 0.5, "gradient_checkpointing": recompute}
        model = build_dual_encoder(section(vision=VISION, text=text))
        assert model.text.model.is_activation_checkpointing == recompute
        torch.manual_seed(1)
        ids = torch.arange(1, 25).reshape(2, 12)
        ids[:, -1] = 299

        def count(tensor: torch.Tensor, side: int = int(recompute)) -> torch.Tensor:
            kept[side] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            embeds = model.encode_text(ids)
        embeds.sum().backward()
        gradients.append({name: value.grad for name, value in model.text.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
    assert kept[1] < kept[0] / 2


def test_a_text_tower_of_transformers_beside_any_image_tower(tmp_path: Path) -> None:
    bert = BertModel(BertConfig(**SMALL_BERT))
    bert.save_pretrained(tmp_path)
    text = {"weights": str(tmp_path), "pool": "cls", "embed_width": 32}
    model = build_dual_encoder(section(vision=VISION, text=text, image_projection=False))
    assert isinstance(model.text.projection, torch.nn.Linear), "LiT learns a head on BERT"
    state = model.text.model.state_dict()
    trained = {name: value for name, value in bert.state_dict().items() if "pooler" not in name}
    assert trained.keys() == state.keys()
    assert all(torch.equal(state[name], value) for name, value in trained.items())
    assert model.encode_text(torch.randint(1, 300, (2, 9))).shape == (2, 32)


def test_both_sides_must_be_as_wide(tmp_path: Path) -> None:
    text = {"width": 32, "depth": 1, "heads": 2, "embed_width": 16, "vocab_size": 300}
    with pytest.raises(ConfigError, match="the image side has 32, the text side 16"):
        build_dual_encoder(section(vision=VISION, text=text, image_projection=False))
