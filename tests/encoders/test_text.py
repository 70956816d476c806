"""Text towers: the sentence vector comes from the right place or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    SiglipTextConfig,
    SiglipTextModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from owlkit.encoders.text import (
    TextTower,
    create_text_tower,
    load_text_model,
    load_text_tower,
    shorten_context,
)
from owlkit.errors import CheckpointError, ConfigError, TokenError
from owlkit.models import DualEncoder
from tests.encoders.test_hf_vision import copy_as_model_folder

END = 99
TINY: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
TINY_CLIP: dict[str, Any] = {**TINY, "vocab_size": 100, "bos_token_id": 98, "eos_token_id": END}


def small_tower(pool: str = "argmax") -> TextTower:
    torch.manual_seed(0)
    return create_text_tower(
        width=32, depth=2, heads=4, vocab_size=100, context_length=8, embed_width=24, pool=pool
    ).eval()


@pytest.mark.parametrize("name", ["clip_gelu_eos", "clip_legacy_eos", "siglip"])
@torch.no_grad()
def test_embeddings_match_transformers(
    golden: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    fixture = golden("03_towers") / name
    inputs, outputs = np.load(fixture / "inputs.npz"), np.load(fixture / "outputs.npz")
    tolerance = json.loads((fixture / "tolerance.json").read_text())
    model = DualEncoder.from_pretrained(copy_as_model_folder(fixture, tmp_path))
    mask = torch.from_numpy(inputs["attention_mask"]) if "attention_mask" in inputs else None
    found = model.encode_text(torch.from_numpy(inputs["input_ids"]), mask)
    np.testing.assert_allclose(
        found.numpy(), outputs["text_embeds"], atol=tolerance["text_embeds"], rtol=0
    )


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    tower = small_tower()
    short = torch.tensor([[98, 5, 6, END]])
    padded = torch.tensor([[98, 5, 6, END, 0, 0, 0, 0]])
    mask = (padded > 0).long()
    torch.testing.assert_close(tower(short), tower(padded, mask))
    torch.testing.assert_close(tower(short), tower(padded))


@pytest.mark.parametrize(
    ("pool", "ids"),
    [
        pytest.param("argmax", [98, 5, 6, 7], id="the largest id is the start token"),
        pytest.param("argmax", [5, 98, 6, 7], id="the largest id is not the end token"),
        pytest.param("eos", [98, 5, 6, 7], id="no end token"),
    ],
)
def test_a_text_without_end_token_is_an_error(pool: str, ids: list[int]) -> None:
    good = [98, 4, END, 0]
    with pytest.raises(TokenError, match="row 1 has no end token"):
        small_tower(pool)(torch.tensor([good, ids]))


@pytest.mark.parametrize("pool", ["argmax", "eos"])
@torch.no_grad()
def test_rows_of_padding_are_finite_and_disturb_nobody(pool: str) -> None:
    tower = small_tower(pool)
    text = torch.tensor([[98, 5, END, 0]])
    batch = torch.cat([text, torch.zeros_like(text)])
    found = tower(batch, (batch > 0).long())
    assert found.isfinite().all()
    torch.testing.assert_close(found[:1], tower(text, (text > 0).long()))


@torch.no_grad()
def test_eos_pool_takes_the_first_end_token() -> None:
    tower = small_tower("eos")
    padded_with_end = torch.tensor([[98, 5, END, END, END]])
    torch.testing.assert_close(tower(padded_with_end), tower(torch.tensor([[98, 5, END]])))


@torch.no_grad()
def test_mean_and_cls_pools_of_any_encoder() -> None:
    model = BertModel(BertConfig(**TINY), add_pooling_layer=False).eval()
    ids = torch.tensor([[1, 7, 8, 2], [1, 9, 2, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    by_hand = torch.stack([hidden[0].mean(0), hidden[1, :3].mean(0)])
    torch.testing.assert_close(TextTower(model, pool="mean")(ids, mask), by_hand)
    torch.testing.assert_close(TextTower(model, pool="cls")(ids, mask), hidden[:, 0])


def test_pretrained_encoders_load_with_a_fitting_pool(tmp_path: Path) -> None:
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path / "bert")
    tower = load_text_tower(tmp_path / "bert", projection_width=8)
    assert (tower.pool, tower.width) == ("mean", 8)
    clip_config = CLIPTextConfig(**TINY_CLIP)
    clip = CLIPTextModel(clip_config)
    clip.save_pretrained(tmp_path / "clip")
    assert load_text_tower(tmp_path / "clip").pool == "argmax"


def test_a_folder_of_several_towers_is_no_text_encoder(owlv2_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="init_from"):
        load_text_model(owlv2_folder)


def test_too_long_and_wrongly_shaped_ids() -> None:
    tower = small_tower()
    with pytest.raises(TokenError, match="9 tokens, the tower takes 8"):
        tower(torch.full((1, 9), END))
    with pytest.raises(TokenError, match=r"\[Q, L\]"):
        tower(torch.tensor([98, END]))


@torch.no_grad()
def test_last_pool_insists_on_full_length(golden: Callable[[str], Path], tmp_path: Path) -> None:
    fixture = golden("03_towers") / "siglip"
    model = DualEncoder.from_pretrained(copy_as_model_folder(fixture, tmp_path))
    with pytest.raises(TokenError, match="padded to 10 tokens; found 4"):
        model.encode_text(torch.ones(1, 4, dtype=torch.int64))


def test_eos_pool_needs_an_end_token() -> None:
    with pytest.raises(ConfigError, match="eos_token_id"):
        TextTower(small_tower().model, pool="eos")


@torch.no_grad()
def test_shortened_context_keeps_the_first_positions() -> None:
    tower = small_tower()
    short = shorten_context(tower, 5)
    ids = torch.tensor([[98, 5, END]])
    assert short.context_length == 5
    torch.testing.assert_close(short(ids), tower(ids))
    with pytest.raises(ConfigError, match="at most the 8 tokens"):
        shorten_context(tower, 9)


def test_argmax_pool_is_for_clip_only() -> None:
    with pytest.raises(ConfigError, match="'argmax' is for CLIP"):
        TextTower(BertModel(BertConfig(**TINY)), pool="argmax")


def test_no_text_gives_no_embedding() -> None:
    tower = small_tower()
    assert tower(torch.zeros(0, 4, dtype=torch.int64)).shape == (0, 24)
    with pytest.raises(TokenError, match="at least one token"):
        tower(torch.zeros(2, 0, dtype=torch.int64))


@torch.no_grad()
def test_clip_encoders_with_the_legacy_end_token_load(tmp_path: Path) -> None:
    """As in the text_encoder folders of image generators."""
    config = CLIPTextConfig(**{**TINY_CLIP, "eos_token_id": 2})
    CLIPTextModel(config).save_pretrained(tmp_path)
    assert load_text_tower(tmp_path)(torch.tensor([[98, 5, 99]])).shape == (1, 16)


@torch.no_grad()
def test_a_projection_beside_the_encoder_is_taken(tmp_path: Path) -> None:
    config = CLIPTextConfig(**TINY_CLIP, projection_dim=24)
    model = CLIPTextModelWithProjection(config).eval()
    model.save_pretrained(tmp_path)
    ids = torch.tensor([[98, 5, 99]])
    torch.testing.assert_close(load_text_tower(tmp_path)(ids), model(input_ids=ids).text_embeds)


@torch.no_grad()
def test_a_projection_gives_way_to_another_width_only(tmp_path: Path) -> None:
    config = CLIPTextConfig(**TINY_CLIP, projection_dim=24)
    CLIPTextModelWithProjection(config).save_pretrained(tmp_path)
    own = load_text_tower(tmp_path)
    same, other, hidden = (load_text_tower(tmp_path, projection_width=w) for w in (24, 8, 16))
    assert torch.equal(same.projection.weight, own.projection.weight)
    assert (other.width, other.projection.weight.shape) == (8, (8, 16))
    assert hidden.projection.weight.shape == (16, 16), "16 is not what the weights give"


@torch.no_grad()
def test_siglips_own_head_is_the_projection(tmp_path: Path) -> None:
    config = SiglipTextConfig(**TINY, max_position_embeddings=6, projection_size=24)
    SiglipTextModel(config).save_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7, 1, 1, 1]])
    tower = load_text_tower(tmp_path)
    assert isinstance(tower.projection, torch.nn.Identity)
    assert tower(ids).shape == (1, tower.width) == (1, 24)
    assert isinstance(load_text_tower(tmp_path, projection_width=24).projection, torch.nn.Identity)
    assert load_text_tower(tmp_path, projection_width=8)(ids).shape == (1, 8)
    means = load_text_tower(tmp_path, pool="mean")
    assert means(ids, torch.ones_like(ids)).shape == (1, means.width) == (1, 16)


@torch.no_grad()
def test_robertas_positions_start_behind_the_padding(tmp_path: Path) -> None:
    config = XLMRobertaConfig(**TINY, max_position_embeddings=18, pad_token_id=1)
    XLMRobertaModel(config).save_pretrained(tmp_path)
    tower = load_text_tower(tmp_path)
    assert tower.context_length == 16
    assert tower.model.pooler is None
    assert tower(torch.full((1, 16), 7), torch.ones(1, 16)).isfinite().all()
