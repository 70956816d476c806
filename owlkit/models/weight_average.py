"""The step of an exponential moving average of weights, a run's own or a teacher's."""

import torch
from torch import nn

from owlkit.errors import ConfigError


@torch.no_grad()
def move_weights(average: nn.Module, model: nn.Module, momentum: float) -> None:
    """Moves weights a step towards those of another module: average * m + model * (1 - m).

    In one call for all weights. Buffers stay: the running statistics of batch norms are each
    module's own.

    Args:
        average: The same architecture as the model.
        model: What is trained.
        momentum: m, in [0, 1].

    Raises:
        ConfigError: If the two do not have the same weights.
    """
    averages, weights = dict(average.named_parameters()), dict(model.named_parameters())
    if averages.keys() != weights.keys():
        differing = ", ".join(sorted(averages.keys() ^ weights.keys()))
        raise ConfigError(
            f"average and model: expected the same weights, found {differing} in one alone"
        )
    torch._foreach_lerp_(
        list(averages.values()), [weights[name] for name in averages], 1.0 - momentum
    )
