"""The loss of DINO [0]: a student's view must guess what the teacher says of the other views.

Shapes: B images, G global views and V views of each in all, the global ones first; K prototypes.
Rows are view-major: view 0 of all images, then view 1, and so on.

- [0]: Emerging Properties in Self-Supervised Vision Transformers, 2021,
  https://arxiv.org/abs/2104.14294
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from owlkit.errors import ConfigError, QueryError
from owlkit.losses.teacher_targets import Centering, TeacherTargets


def dino_loss(
    student: Tensor, teacher_probs: Tensor, *, global_crops: int = 2, temperature: float = 0.1
) -> Tensor:
    """Cross-entropy between the teacher's global views and the student's views of the same image.

    The mean over the images and over all G (V - 1) pairs of a teacher's view and another view of
    the student.

    Args:
        student: Logits of all views [V * B, K].
        teacher_probs: Probabilities of the global views [G * B, K]; rows sum to 1.
        global_crops: G, at least 1.
        temperature: What the student's logits are divided by, above 0.

    Returns:
        A scalar in nats, in float32 or wider.

    Raises:
        ConfigError: If ``global_crops`` or ``temperature`` is out of range.
        QueryError: If the shapes do not fit.

    Example:
        >>> views = torch.tensor([[0.0, 0.0], [0.1, 0.0]])  # of one image
        >>> dino_loss(views, torch.tensor([[0.0, 1.0], [0.5, 0.5]]))  # (ln(1 + e) + ln 2) / 2
        tensor(1.0032)
    """
    _check_temperature(temperature)
    views = _count_views(student, teacher_probs, global_crops)
    dtype = torch.promote_types(student.dtype, torch.float32)
    log_probs = F.log_softmax(student.to(dtype) / temperature, dim=1)
    log_probs = log_probs.reshape(views, -1, student.shape[1])  # [V, B, K]
    of_global, of_local = torch.split(log_probs, [global_crops, views - global_crops])
    probs = teacher_probs.to(dtype).reshape(global_crops, *log_probs.shape[1:])  # [G, B, K]
    # Cross-entropy is linear in the targets: what one view is asked by all of the teacher's views
    # is asked at once, so that nothing of the size of all pairs is made.
    asked = probs.sum(dim=0)  # [B, K]
    total = ((asked - probs) * of_global).sum() + (asked * of_local.sum(dim=0)).sum()
    return -total / (probs.shape[1] * global_crops * (views - 1))


class DinoLoss(nn.Module):
    """DINO's loss with the state that belongs to it: the center of the teacher's logits.

    For each step: :meth:`assign` and :meth:`compare` for each part of the batch (or both by a call
    of the module), and at its end :meth:`update_center`.

    Args:
        out_dim: K, at least 1.
        student_temperature: What the student's logits are divided by, above 0.
        centering: What keeps the teacher from collapsing, see
            :class:`owlkit.losses.teacher_targets.TeacherTargets`.
        center_momentum: Share of the old center that stays at an update, 0 to 1.
        sinkhorn_iterations: Rounds of Sinkhorn-Knopp, at least 1.
        global_crops: G, at least 1.

    Raises:
        ConfigError: If one of them is out of range.
    """

    def __init__(
        self,
        out_dim: int,
        *,
        student_temperature: float = 0.1,
        centering: Centering = "centering",
        center_momentum: float = 0.9,
        sinkhorn_iterations: int = 3,
        global_crops: int = 2,
    ) -> None:
        super().__init__()
        _check_temperature(student_temperature)
        self.student_temperature = student_temperature
        self.global_crops = global_crops
        self.targets = TeacherTargets(
            out_dim,
            centering=centering,
            momentum=center_momentum,
            iterations=sinkhorn_iterations,
        )

    @property
    def center(self) -> Tensor:
        """What is taken from the teacher's logits [1, K]."""
        return self.targets.center

    def assign(self, teacher_logits: Tensor, temperature: float) -> Tensor:
        """The teacher's probabilities [N, K], without a gradient; arguments as TeacherTargets."""
        probs: Tensor = self.targets(teacher_logits, temperature)
        return probs

    def compare(self, student_logits: Tensor, probs: Tensor) -> Tensor:
        """:func:`dino_loss` of the student's views [V * B, K] with probabilities [G * B, K]."""
        return dino_loss(
            student_logits,
            probs,
            global_crops=self.global_crops,
            temperature=self.student_temperature,
        )

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, temperature: float
    ) -> Tensor:
        """The loss of a batch.

        Args:
            student_logits: Of all views [V * B, K].
            teacher_logits: Of the global views [G * B, K].
            temperature: The teacher's, above 0.

        Returns:
            A scalar in nats, in float32 or wider.

        Raises:
            ConfigError: If ``temperature`` is not above 0.
            QueryError: If the shapes do not fit.
        """
        return self.compare(student_logits, self.assign(teacher_logits, temperature))

    def update_center(self) -> None:
        """Ends a step: see :meth:`owlkit.losses.teacher_targets.TeacherTargets.update_center`."""
        self.targets.update_center()


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ConfigError(f"expected a temperature above 0, found {temperature}")


def _count_views(student: Tensor, teacher_probs: Tensor, global_crops: int) -> int:
    """V."""
    if global_crops < 1:
        raise ConfigError(f"expected at least 1 global crop, found {global_crops}")
    images, left_over = divmod(len(teacher_probs), global_crops)
    fits = (
        student.ndim == teacher_probs.ndim == 2
        and student.shape[1] == teacher_probs.shape[1]
        and images > 0
        and left_over == 0
        and len(student) % images == 0
    )
    views = len(student) // images if fits else 0
    if views < max(global_crops, 2):
        raise QueryError(
            f"expected logits [V * B, K] of V views, at least 2 and the {global_crops} of the "
            f"teacher first, and probabilities [{global_crops} * B, K], found "
            f"{list(student.shape)} and {list(teacher_probs.shape)}"
        )
    return views
