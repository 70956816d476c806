"""Attention in pieces against the definition in double precision, and where it is used."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from owlkit.encoders import long_attention as module
from owlkit.encoders.cpu_inference import quicken_inference
from owlkit.encoders.long_attention import attend, long_attention
from owlkit.encoders.vision import VisionTower


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Makes a few tokens many; collects the queries that went the new way."""
    served: list[Tensor] = []

    def watched(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        served.append(query)
        return attend(query, key, value)

    monkeypatch.setattr(module, "_FEWEST_TOKENS", 8)
    monkeypatch.setattr(module, "_ROWS", 7)
    monkeypatch.setattr(module, "product_is_slow", lambda: True)
    monkeypatch.setattr(module, "attend", watched)
    return served


def _make(tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value [2, 3, T, 16] as a joint projection leaves them, strided."""
    torch.manual_seed(0)
    joint = torch.randn(2, tokens, 3, 3, 16)
    query, key, value = joint.to(dtype).permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


@pytest.mark.parametrize("tokens", [7, 8, 21, 30])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=str
)
@torch.no_grad()
def test_equals_the_definition(
    short: list[Tensor], tokens: int, dtype: torch.dtype, tolerance: float
) -> None:
    inputs = _make(tokens, dtype)
    query, key, value = (part.double() for part in inputs)
    expected = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value
    found = attend(*inputs)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "name", ["vit_small_patch16_224", "vit_base_patch16_siglip_224", "vit_small_patch16_dinov3"]
)
def test_a_prepared_tower_uses_it_when_nothing_is_learned(short: list[Tensor], name: str) -> None:
    torch.manual_seed(0)
    overrides = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    tower = VisionTower(name, image_size=64, overrides=overrides).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        usual = tower(image)
    quicken_inference(tower)
    tower(image)  # gradients wanted
    assert not short
    with torch.inference_mode():
        quick = tower(image)
    assert len(short) == 2  # once a block
    torch.testing.assert_close(quick.tokens, usual.tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quick.pooled, usual.pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "keys", "dtype"),
    [
        pytest.param({"is_causal": True}, 16, torch.float32, id="order matters"),
        pytest.param({"attn_mask": torch.zeros(16, 16)}, 16, torch.float32, id="masked"),
        pytest.param({"scale": 0.5}, 16, torch.float32, id="another scale"),
        pytest.param({}, 12, torch.float32, id="another's keys"),
        pytest.param({}, 16, torch.float64, id="double precision"),
    ],
)
@torch.no_grad()
def test_everything_else_stays_with_torch(
    short: list[Tensor], options: dict[str, object], keys: int, dtype: torch.dtype
) -> None:
    query, key, value = _make(16, dtype)
    inputs = query, key[:, :, :keys], value[:, :, :keys]
    with long_attention(torch.zeros(2, 16, 48)):
        found = F.scaled_dot_product_attention(*inputs, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(found, F.scaled_dot_product_attention(*inputs, **options))  # type: ignore[arg-type]
    assert not short


@torch.no_grad()
def test_few_tokens_stay_with_torch(short: list[Tensor]) -> None:
    with long_attention(torch.zeros(2, 8, 48)):
        F.scaled_dot_product_attention(*_make(8, torch.float32))
    assert not short
