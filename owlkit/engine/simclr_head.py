"""The projection of SimCLR, which is thrown away after training."""

from torch import Tensor, nn


class SimclrHead(nn.Module):
    """Three linear layers with batch norms between them, as SLIP [0] projects image vectors.

    Shapes: N vectors, Dp pooled width of the image tower, F projected width.

    - [0]: SLIP: Self-supervision meets Language-Image Pre-training, 2021,
      https://arxiv.org/abs/2112.12750

    Args:
        pooled_width: Dp.
        hidden_width: Width of the two hidden layers.
        width: F.
        temperature: What the loss on the projections divides cosines by, above 0.
    """

    def __init__(
        self,
        pooled_width: int,
        *,
        hidden_width: int = 4096,
        width: int = 256,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.layers = nn.Sequential(
            # A batch norm takes away what a bias before it adds.
            nn.Linear(pooled_width, hidden_width, bias=False),
            nn.BatchNorm1d(hidden_width),
            nn.ReLU(),
            nn.Linear(hidden_width, hidden_width, bias=False),
            nn.BatchNorm1d(hidden_width),
            nn.ReLU(),
            nn.Linear(hidden_width, width),
        )

    def forward(self, pooled: Tensor) -> Tensor:
        """Projects pooled vectors [N, Dp] to [N, F], not normalised."""
        projected: Tensor = self.layers(pooled)
        return projected
