"""What a teacher's logits become before a student learns from them.

Shapes: N rows of this process, K prototypes.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from owlkit.errors import ConfigError, QueryError
from owlkit.losses.processes import sum_over_processes
from owlkit.losses.sinkhorn import sinkhorn_knopp

Centering = Literal["centering", "sinkhorn_knopp"]
"""How a teacher is kept from giving every image the same prototype."""


class TeacherTargets(nn.Module):
    """Turns a teacher's logits into the probabilities that a student has to match.

    With ``centering``, a softmax of logits less a running mean of all logits, as DINO [0]. In
    training mode each call notes the logits it sees, and :meth:`update_center` moves the center
    towards their mean, once for a step: all parts of an accumulated batch see one center. With
    ``sinkhorn_knopp`` the logits themselves are balanced, as DINOv2 may [1]; the center stays 0.

    Only ``center`` [1, K] is kept in the state: call :meth:`update_center` before it is saved.

    - [0]: Emerging Properties in Self-Supervised Vision Transformers, 2021,
      https://arxiv.org/abs/2104.14294
    - [1]: DINOv2: Learning Robust Visual Features without Supervision, 2023,
      https://arxiv.org/abs/2304.07193

    Args:
        out_dim: K, at least 1.
        centering: Which of the two.
        momentum: Share of the old center that stays at an update, 0 to 1.
        iterations: Rounds of Sinkhorn-Knopp, at least 1.

    Raises:
        ConfigError: If one of them is out of range.
    """

    center: Tensor

    def __init__(
        self,
        out_dim: int,
        *,
        centering: Centering = "centering",
        momentum: float = 0.9,
        iterations: int = 3,
    ) -> None:
        super().__init__()
        if out_dim < 1 or iterations < 1 or not 0 <= momentum <= 1:
            raise ConfigError(
                "expected at least 1 prototype, at least 1 iteration and a momentum of 0 to 1, "
                f"found {out_dim}, {iterations} and {momentum}"
            )
        self.centering = centering
        self.momentum = momentum
        self.iterations = iterations
        self.register_buffer("center", torch.zeros(1, out_dim))
        # No buffer: data-parallel wrappers overwrite those with the ones of the first process.
        self._noted: Tensor | None = None
        self._noted_rows = 0

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """The teacher's probabilities.

        Args:
            logits: [N, K].
            temperature: What logits are divided by, above 0.

        Returns:
            Probabilities [N, K] in float32 or wider, without a gradient.

        Raises:
            ConfigError: If ``temperature`` is not above 0.
            QueryError: If the shape of the logits does not fit.
        """
        if logits.ndim != 2 or logits.shape[1] != self.center.shape[1]:
            raise QueryError(
                f"expected logits of shape [N, {self.center.shape[1]}], found {list(logits.shape)}"
            )
        if self.centering == "sinkhorn_knopp":
            return sinkhorn_knopp(logits, temperature, self.iterations)
        if not temperature > 0:
            raise ConfigError(f"expected a temperature above 0, found {temperature}")
        logits = logits.to(torch.promote_types(logits.dtype, self.center.dtype))
        if self.training and len(logits):
            self._note(logits)
        return ((logits - self.center) / temperature).softmax(dim=1)

    @torch.no_grad()
    def update_center(self) -> None:
        """Moves the center towards the mean of what was noted since the last update.

        It is the mean over processes of the mean over each one's rows, as in DINOv2, whatever
        their numbers of rows; processes without rows have no part in it. Where nothing was noted,
        the center stays. All processes of torch.distributed must call this together.
        """
        if self.centering == "sinkhorn_knopp":
            return
        # The mean, and 1 if there is one: a single message for both.
        message = self.center.new_zeros(self.center.shape[1] + 1)
        if self._noted is not None:
            message[:-1] = self._noted / self._noted_rows
            message[-1] = 1
        message = sum_over_processes(message)
        taking_part = message[-1]
        mean = message[:-1] / taking_part.clamp(min=1)
        moved = self.momentum * self.center + (1 - self.momentum) * mean
        self.center.copy_(torch.where(taking_part > 0, moved, self.center))
        self._noted, self._noted_rows = None, 0

    def _note(self, logits: Tensor) -> None:
        total = logits.sum(dim=0)
        self._noted = total if self._noted is None else self._noted + total
        self._noted_rows += len(logits)
