"""Attention over many tokens on CPUs, without gradients, at the rate of large matrix products.

Torch's fused kernel walks over small tiles, whose products reach a fraction of the processor's
rate: in bfloat16 it is no faster than in float32. Here each head's scores are made for some
hundreds of rows at once, few enough to stay in the cache until they have met the values. The same
function, in memory that grows with the number of tokens, not with its square.

Shapes: B images, T tokens, d head width.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from owlkit.encoders.fast_linear import matrix_product, product_is_slow

_FEWEST_TOKENS = 1024
"""Up to here the fused kernel is as fast in float32, and plain products in bfloat16."""

_ROWS = 512


def long_attention(tokens: Tensor) -> AbstractContextManager[Any]:
    """A context in which torch's attention goes the faster way where there is one.

    That is on CPUs, from 1,025 tokens on, for bfloat16 and, where torch's own matrix product is
    slow, for float32. Everything else goes through the fused kernel.

    Args:
        tokens: What enters the blocks [B, T, D].
    """
    gains = (
        tokens.device.type == "cpu"
        and tokens.shape[1] > _FEWEST_TOKENS
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )
    return _LongAttention() if gains else nullcontext()


class _LongAttention(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention and _is_served(*args, **(kwargs or {})):
            return attend(*args[:3])
        return func(*args, **(kwargs or {}))


def _is_served(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **others: Any,
) -> bool:
    """Whether this is plain self-attention that gains."""
    if attn_mask is not None or dropout_p or is_causal or others:
        return False
    gains = query.dtype == torch.bfloat16 or (query.dtype == torch.float32 and product_is_slow())
    return gains and query.shape == key.shape == value.shape


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``softmax(query key^T / sqrt(d)) value``, a head and some hundreds of rows at a time.

    Args:
        query: [B, heads, T, d], float32 or bfloat16.
        key: Of the same shape.
        value: Of the same shape.

    Returns:
        [B, heads, T, d].
    """
    batch, heads, tokens, width = query.shape
    count = -(-tokens // _ROWS)
    # Without a bias torch's product is the best one in bfloat16.
    product = F.linear if query.dtype == torch.bfloat16 else matrix_product
    output = query.new_empty(batch, tokens, heads, width).transpose(1, 2)  # as callers read it
    for image in range(batch):
        for head in range(heads):
            keys = key[image, head] * width**-0.5  # [T, d]
            values = value[image, head].T.contiguous()  # [d, T]
            pieces = zip(
                query[image, head].chunk(count), output[image, head].chunk(count), strict=True
            )
            for rows, results in pieces:
                scores = product(rows, keys)
                torch.softmax(scores, dim=-1, out=scores)
                results.copy_(product(scores, values))
    return output
