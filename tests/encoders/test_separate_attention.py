"""Self-attention for the time of an export, against timm's own."""

import pytest
import torch
from timm.layers.attention import Attention
from torch import nn

from owlkit.encoders.separate_attention import SeparateAttention, separate_attention


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"qkv_bias": True},
        {"qk_norm": True, "scale_norm": True, "norm_layer": nn.LayerNorm},
        {"attn_head_dim": 5, "dim_out": 9},
    ],
)
def test_same_answers_from_the_same_weights(settings):
    torch.manual_seed(0)
    attention = Attention(12, num_heads=3, **settings).eval()
    tokens = torch.randn(2, 7, 12)
    expected = attention(tokens)
    separate = SeparateAttention(attention)
    torch.testing.assert_close(separate(tokens), expected)
    assert separate.key.weight.data_ptr() == attention.qkv.weight.chunk(3)[1].data_ptr()


def test_a_model_has_its_own_attention_back():
    plain, gated = Attention(4, num_heads=2), Attention(4, num_heads=2, gated=True)
    model = nn.Sequential(nn.Sequential(plain), gated)
    names = [*model.state_dict()]
    with separate_attention(model):
        assert isinstance(model[0][0], SeparateAttention)
        assert model[1] is gated
    assert model[0][0] is plain
    assert [*model.state_dict()] == names
