"""The loss of iBOT [0]: of hidden patches, the student must guess what the teacher sees there.

Shapes: B images (each global view counts as one), P patches, M hidden patches of all images
together, K prototypes.

- [0]: iBOT: Image BERT Pre-Training with Online Tokenizer, 2021, https://arxiv.org/abs/2111.07832
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from owlkit.errors import ConfigError, QueryError


def ibot_loss(
    student: Tensor, teacher_probs: Tensor, mask: Tensor, *, temperature: float = 0.1
) -> Tensor:
    """Cross-entropy of hidden patches: the mean of each image, then the mean over images.

    As in DINOv2 (https://arxiv.org/abs/2304.07193): images with few and with many hidden patches
    count alike, and an image without any adds 0 but counts, so that masking fewer images gives
    a smaller loss.

    Args:
        student: Logits of the hidden patches [M, K], in the order of ``mask.nonzero()``.
        teacher_probs: Of the same patches, which the teacher sees [M, K]; rows sum to 1.
        mask: True where a patch is hidden from the student [B, P].
        temperature: What the student's logits are divided by, above 0.

    Returns:
        A scalar in nats, in float32 or wider; 0 where nothing is hidden.

    Raises:
        ConfigError: If ``temperature`` is not above 0.
        QueryError: If the shapes do not fit.

    Example:
        >>> mask = torch.tensor([[True, True], [False, False]])
        >>> ibot_loss(torch.zeros(2, 4), torch.full((2, 4), 0.25), mask)  # ln(4) / 2
        tensor(0.6931)
    """
    if not temperature > 0:
        raise ConfigError(f"expected a temperature above 0, found {temperature}")
    _check_shapes(student, teacher_probs, mask)
    dtype = torch.promote_types(student.dtype, torch.float32)
    log_probs = F.log_softmax(student.to(dtype) / temperature, dim=1)
    losses = -(teacher_probs.to(dtype) * log_probs).sum(dim=1)  # [M]
    hidden = mask.sum(dim=1)  # [B]
    # The image of each row, without asking the device how many rows there are.
    rows = torch.arange(len(student), device=mask.device)
    image = torch.searchsorted(hidden.cumsum(dim=0), rows, right=True)
    return (losses / hidden[image]).sum() / len(mask)


def _check_shapes(student: Tensor, teacher_probs: Tensor, mask: Tensor) -> None:
    if student.ndim != 2 or student.shape != teacher_probs.shape:
        raise QueryError(
            "expected logits and probabilities of one shape [M, K], found "
            f"{list(student.shape)} and {list(teacher_probs.shape)}"
        )
    if mask.ndim != 2 or mask.dtype != torch.bool or len(mask) == 0:
        raise QueryError(
            "expected a bool mask [B, P] of at least 1 image, found "
            f"{mask.dtype} {list(mask.shape)}"
        )
    # Elsewhere the sum would have to be waited for.
    if mask.device.type == "cpu" and int(mask.sum()) != len(student):
        raise QueryError(
            f"expected one row for each of {int(mask.sum())} hidden patches, found {len(student)}"
        )
