"""Stochastic depth for text encoders of transformers, which have none of their own."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from owlkit.errors import ConfigError


@dataclass(frozen=True)
class DropBranch:
    """A forward hook that leaves a residual branch out for some samples, in training only.

    Samples are dropped one by one; what is kept is not scaled up. OWL-ViT was trained so [0],
    otherwise than the usual stochastic depth [1].

    - [0]: Simple Open-Vocabulary Object Detection with Vision Transformers, 2022,
      https://arxiv.org/abs/2205.06230
    - [1]: Deep Networks with Stochastic Depth, 2016, https://arxiv.org/abs/1603.09382

    Attributes:
        rate: Probability that a sample's branch is left out.
    """

    rate: float

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """Returns the branch's output, zero for dropped samples; further outputs as they are."""
        if not module.training:
            return output
        if isinstance(output, tuple):
            return (self._drop(output[0]), *output[1:])
        return self._drop(output)

    def _drop(self, branch: Tensor) -> Tensor:
        """Zeroes samples of [B, L, D]."""
        return branch * branch.new_empty(branch.shape[0], 1, 1).bernoulli_(1 - self.rate)


def add_drop_path(model: nn.Module, rate: float) -> list[RemovableHandle]:
    """Lets a text encoder drop attention and MLP branches, each by itself, in training.

    Args:
        model: A transformer whose blocks add the outputs of their children ``self_attn`` and
            ``mlp`` to what they were given, as CLIP's and SigLIP's do.
        rate: Of the last block; it rises linearly from 0 at the first. In [0, 1).

    Returns:
        Handles that take the dropping away again.

    Raises:
        ConfigError: If the rate is out of range or the model has no such blocks.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"drop_path of the text tower: expected a rate in [0, 1), found {rate}")
    blocks: list[Any] = [block for block in model.modules() if _is_block(block)]
    if not blocks:
        raise ConfigError(
            f"drop_path of the text tower: {type(model).__name__} has no blocks with residual "
            "branches self_attn and mlp, as CLIP's and SigLIP's text encoders have; set it to 0"
        )
    handles = []
    for index, block in enumerate(blocks[1:], start=1):
        drop = DropBranch(rate * index / (len(blocks) - 1))
        handles += [branch.register_forward_hook(drop) for branch in (block.self_attn, block.mlp)]
    return handles


def _is_block(module: nn.Module) -> bool:
    # BERT's kin, whose branches end in a norm behind the sum, have other children.
    children = {name for name, _ in module.named_children()}
    return {"self_attn", "mlp"} <= children
