"""Stochastic depth of text towers against a forward pass written out sample by sample."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, SiglipTextConfig, SiglipTextModel

from owlkit import DualEncoder, OwlDetector
from owlkit.build import build_detector
from owlkit.config import load_config
from owlkit.encoders import TextTower, create_text_tower
from owlkit.encoders.text import shorten_context
from owlkit.encoders.text_drop_path import DropBranch
from owlkit.errors import ConfigError
from tests.encoders.test_hf_vision import copy_as_model_folder

IDS = torch.tensor([[98, 5, 6, 99], [98, 7, 99, 0], [98, 9, 12, 99], [98, 11, 99, 0]])
CONFIGS = Path(__file__).parents[2] / "configs"


def make_tower(drop_path: float = 0.0) -> TextTower:
    torch.manual_seed(0)
    tower = create_text_tower(
        width=32, depth=3, heads=4, vocab_size=100, context_length=8, embed_width=24
    )
    tower.drop_path = drop_path
    return tower


def attention(layer: Any, tokens: Tensor) -> Tensor:
    """Causal attention of one text [L, D], head by head."""
    length, width = tokens.shape
    parts = [project(tokens) for project in (layer.q_proj, layer.k_proj, layer.v_proj)]
    query, key, value = (part.reshape(length, 4, width // 4) for part in parts)
    heads = []
    for head in range(4):
        scores = query[:, head] @ key[:, head].T / (width // 4) ** 0.5
        later = torch.ones(length, length).triu(1).bool()
        heads.append(scores.masked_fill(later, -torch.inf).softmax(-1) @ value[:, head])
    return layer.out_proj(torch.cat(heads, dim=-1))


def mlp(layer: Any, tokens: Tensor) -> Tensor:
    hidden = layer.fc1(tokens)
    return layer.fc2(hidden * torch.sigmoid(1.702 * hidden))


def slow_forward(tower: TextTower, ids: Tensor, rates: list[float]) -> Tensor:
    """Each text by itself; a dropped branch is not even computed."""
    blocks = [block for block in tower.model.modules() if hasattr(block, "self_attn")]
    embeddings = tower.model.get_input_embeddings().weight
    positions = next(
        value for name, value in tower.model.named_parameters() if "position_embedding" in name
    )
    final_norm = next(
        module for name, module in tower.model.named_modules() if name.endswith("final_layer_norm")
    )
    texts = [embeddings[text] + positions[: len(text)] for text in ids]
    for block, rate in zip(blocks, rates, strict=True):
        branches = (
            (block.layer_norm1, lambda x, block=block: attention(block.self_attn, x)),
            (block.layer_norm2, lambda x, block=block: mlp(block.mlp, x)),
        )
        for norm, branch in branches:
            kept = torch.ones(len(ids)) if rate == 0 else torch.empty(len(ids)).bernoulli_(1 - rate)
            texts = [
                text + branch(norm(text)) if keep else text
                for text, keep in zip(texts, kept, strict=True)
            ]
    ends = ids.argmax(dim=1)
    pooled = [final_norm(text)[end] for text, end in zip(texts, ends, strict=True)]
    return tower.projection(torch.stack(pooled))


@torch.no_grad()
def test_training_drops_branches_text_by_text() -> None:
    tower, plain = make_tower(drop_path=0.6).train(), make_tower()
    outcomes = set()
    for seed in range(8):
        torch.manual_seed(seed)
        found = tower(IDS)
        torch.manual_seed(seed)
        expected = slow_forward(plain, IDS, rates=[0.0, 0.3, 0.6])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        outcomes.add(round(found.sum().item(), 4))
    assert len(outcomes) > 4


@torch.no_grad()
def test_evaluation_is_unchanged_to_the_bit() -> None:
    tower, plain = make_tower(drop_path=0.6), make_tower()
    assert torch.equal(tower.eval()(IDS), plain.eval()(IDS))
    assert torch.equal(plain.train()(IDS), plain.eval()(IDS))
    torch.testing.assert_close(plain(IDS), slow_forward(plain, IDS, rates=[0.0, 0.0, 0.0]))


def test_samples_are_dropped_whole_and_what_is_kept_is_not_scaled() -> None:
    module = torch.nn.Identity().train()
    torch.manual_seed(0)
    output, weights = DropBranch(0.3)(module, (), (torch.full((4000, 2, 3), 2.0), None))
    assert weights is None
    assert set(output.unique().tolist()) == {0.0, 2.0}
    by_sample = output.flatten(1)
    assert torch.equal(by_sample.amin(dim=1), by_sample.amax(dim=1))
    assert (by_sample[:, 0] == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_dropped_branches_get_no_gradient() -> None:
    tower = make_tower(drop_path=0.9).train()
    torch.manual_seed(1)  # drops both branches of the last block for this text
    tower(IDS[:1]).sum().backward()
    *_, last = (block for block in tower.model.modules() if hasattr(block, "self_attn"))
    assert not last.mlp.fc1.weight.grad.any()
    assert all(parameter.grad.isfinite().all() for parameter in tower.parameters())


def count_hooks(tower: TextTower) -> int:
    return sum(len(module._forward_hooks) for module in tower.modules())


@torch.no_grad()
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda tower: pickle.loads(pickle.dumps(tower))]
)
def test_copies_drop_by_themselves(duplicate: Callable[[TextTower], TextTower]) -> None:
    tower = make_tower(drop_path=0.6).train()
    twin = duplicate(tower)
    torch.manual_seed(3)
    expected = tower(IDS)
    torch.manual_seed(3)
    assert torch.equal(twin(IDS), expected)
    twin.drop_path = 0.0
    assert (count_hooks(tower), count_hooks(twin)) == (4, 0)
    assert torch.equal(twin(IDS), make_tower()(IDS))


def test_a_new_rate_replaces_the_old_one() -> None:
    tower = make_tower(drop_path=0.6)
    tower.drop_path = 0.2
    hooks = [hook for module in tower.modules() for hook in module._forward_hooks.values()]
    assert [hook.rate for hook in hooks] == pytest.approx([0.1, 0.1, 0.2, 0.2])
    assert shorten_context(tower, 5).drop_path == 0.2


def test_a_single_block_is_the_first_and_never_dropped() -> None:
    tower = create_text_tower(width=32, depth=1, heads=4, vocab_size=100, context_length=8)
    tower.drop_path = 0.5
    assert count_hooks(tower) == 0


@torch.no_grad()
def test_siglips_text_tower_can_drop() -> None:
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32}
    depth = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 4}
    model = SiglipTextModel(SiglipTextConfig(**sizes, **depth)).eval()
    tower = TextTower(model, pool="last", drop_path=0.5).train()
    ids = torch.randint(0, 50, (64, 4))
    # One block of two can drop attention, MLP, both or none.
    change = (tower(ids) - tower.eval()(ids)).abs().amax(dim=1)
    assert 0.1 < (change < 1e-6).float().mean() < 0.4


def test_models_with_other_blocks_are_named() -> None:
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32}
    model = BertModel(BertConfig(**sizes, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ConfigError, match="BertModel has no blocks with residual branches"):
        TextTower(model, pool="mean", drop_path=0.1)
    assert TextTower(model, pool="mean").drop_path == 0


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rates_out_of_range_change_nothing(rate: float) -> None:
    tower = make_tower(drop_path=0.1)
    with pytest.raises(ConfigError, match=r"a rate in \[0, 1\), found"):
        tower.drop_path = rate
    assert tower.drop_path == 0.1
    assert count_hooks(tower) == 4


@torch.no_grad()
def test_a_built_detector_keeps_its_rate_on_disk(tmp_path: Path) -> None:
    overrides = ["model.text.drop_path=0.25", "model.text.depth=2"]
    detector = build_detector(load_config(CONFIGS / "owl_tiny.yaml", overrides).model)
    assert detector.text.drop_path == 0.25
    detector.save_pretrained(tmp_path)
    back = OwlDetector.from_pretrained(tmp_path)
    assert back.text.drop_path == 0.25
    assert count_hooks(back.text) == 2
    assert not any("drop" in key for key in back.state_dict())


def test_the_configuration_decides_for_trained_towers_too(
    golden: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy_as_model_folder(golden("03_towers") / "clip_gelu_eos", tmp_path / "clip")
    source = DualEncoder.from_pretrained(folder)
    source.text.drop_path = 0.5
    source.save_pretrained(tmp_path / "own")
    overrides = [f"model.init_from={tmp_path / 'own'}", "model.vision.image_size=96"]
    for rate in (0.0, 0.1):
        config = load_config(CONFIGS / "owl_b16.yaml", [*overrides, f"model.text.drop_path={rate}"])
        assert build_detector(config.model).text.drop_path == rate
