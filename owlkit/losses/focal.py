"""The focal loss [0]: sigmoid cross-entropy in which pairs that are already right count less.

- [0]: Focal Loss for Dense Object Detection, 2017, https://arxiv.org/abs/1708.02002
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def focal_loss(
    logits: Tensor, targets: Tensor, *, alpha: float | None = 0.3, gamma: float = 2.0
) -> Tensor:
    """Focal loss of each logit against its own target.

    ``(alpha t + (1 - alpha)(1 - t)) * (1 - p_t)^gamma * ce`` with the cross-entropy ``ce`` and
    ``p_t = exp(-ce)``. For targets between 0 and 1 this is scenic's form; DETR's and torchvision's
    ``p_t = p t + (1 - p)(1 - t)`` agrees with it at 0 and 1 only.

    Args:
        logits: [...]; any finite value gives a finite loss and gradient.
        targets: Probabilities in [0, 1], of the shape of ``logits``.
        alpha: Weight of positives, in [0, 1]; None for plain cross-entropy without ``gamma``.
        gamma: At least 0; how much pairs that are already right count less.

    Returns:
        Losses [...], at least 0, in float32 (float64 for float64 logits).

    Example:
        >>> focal_loss(torch.tensor([-2.0, 0.0]), torch.tensor([1.0, 0.0]))
        tensor([0.4950, 0.1213])
    """
    logits = _widened(logits)
    targets = targets.to(logits.dtype)
    # Two terms that are never negative: nothing cancels, however sure the logit.
    entropy = targets * F.softplus(-logits) + (1 - targets) * F.softplus(logits)
    if alpha is None:
        return entropy
    # For gamma < 1 the power has no slope at 0, where the loss as a whole is flat.
    wrongness = (-torch.expm1(-entropy)).clamp_min(torch.finfo(entropy.dtype).tiny)
    weight = (2 * alpha - 1) * targets + (1 - alpha)
    return weight * wrongness.pow(gamma) * entropy


def uniform_focal_loss(
    logits: Tensor, *, target: bool, alpha: float | None = 0.3, gamma: float = 2.0
) -> Tensor:
    """Focal loss where all targets are 1, or all are 0: :func:`focal_loss` without their tensor.

    For the many pairs of a detector that share one target; makes three tensors of the logits' size
    for zeros, four for ones, and keeps two for the backward pass.

    Args:
        logits: [...], finite.
        target: Whether every target is 1; else every target is 0.
        alpha: Weight of positives, in [0, 1]; None for plain cross-entropy without ``gamma``.
        gamma: At least 0.

    Returns:
        Losses [...], at least 0, in float32 (float64 for float64 logits).
    """
    wrong = _widened(-logits if target else logits)
    entropy = F.softplus(wrong)
    if alpha is None:
        return entropy
    # (1 - p_t)^gamma by way of its logarithm, whose slope is finite for every gamma and logit.
    modulation = (wrong - entropy).mul_(gamma).exp_()
    return (modulation * entropy).mul_(alpha if target else 1 - alpha)


def _widened(logits: Tensor) -> Tensor:
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
