"""A moving average of the weights, which is often better than the weights themselves."""

from copy import deepcopy

import torch
from torch import nn

from owlkit.models.weight_average import move_weights


class WeightAverage:
    """Keeps ``average = decay * average + (1 - decay) * weight`` beside a model that learns.

    Polyak averaging with exponential weights. It starts at the model's own weights; buffers, such
    as batch statistics, are copied, not averaged.

    Args:
        model: The model to follow, on its device.
        decay: In [0, 1): 0.999 looks back over about a thousand steps.

    Attributes:
        model: The averaged twin, in evaluation mode.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the model's present weights."""
        move_weights(self.model, model, self.decay)
        for average, current in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(current)
