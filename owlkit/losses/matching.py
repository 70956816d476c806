"""Which prediction answers for which box: one-to-one matching of least total cost.

Shapes: B images, P predictions, Q queries, M boxes.

Set matching follows DETR [0]; the costs are OWL-ViT's [1].

- [0]: End-to-End Object Detection with Transformers, 2020, https://arxiv.org/abs/2005.12872
- [1]: Simple Open-Vocabulary Object Detection with Vision Transformers, 2022,
  https://arxiv.org/abs/2205.06230
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from owlkit.errors import BoxError, QueryError
from owlkit.losses.focal import uniform_focal_loss
from owlkit.ops import cxcywh_to_xyxy
from owlkit.structures import DetectionTargets

GIOU_EPS = 1e-6
"""Added to union and hull: scenic's convention, in the cost and in the loss."""


@torch.no_grad()
def match(
    logits: Tensor,
    boxes: Tensor,
    targets: DetectionTargets,
    *,
    class_weight: float = 1.0,
    l1_weight: float = 1.0,
    giou_weight: float = 1.0,
    focal_alpha: float | None = 0.3,
    focal_gamma: float = 2.0,
) -> Tensor:
    """Assigns a prediction to each box such that the sum of the costs is least.

    The assignment is found on the host, which gets the costs of the whole batch in one transfer.

    Args:
        logits: Of each query on each prediction [B, P, Q].
        boxes: cxcywh in [0, 1] [B, P, 4].
        targets: What there is to find; queries outside ``query_mask`` take no part.
        class_weight: Of the class cost.
        l1_weight: Of the L1 distance between boxes.
        giou_weight: Of the negative generalised IoU.
        focal_alpha: As in :func:`owlkit.losses.focal_loss`.
        focal_gamma: As in :func:`owlkit.losses.focal_loss`.

    Returns:
        Index of the prediction matched to each box [B, M], int64, on the host, where it was found;
        -1 for padding, and for the boxes left over where an image has more boxes than predictions.

    Raises:
        BoxError: If the shapes of the boxes do not fit.
        QueryError: If the shapes of logits, labels and masks do not fit.
    """
    cost = matching_cost(
        logits,
        boxes,
        targets,
        class_weight=class_weight,
        l1_weight=l1_weight,
        giou_weight=giou_weight,
        focal_alpha=focal_alpha,
        focal_gamma=focal_gamma,
    )
    matches = torch.full(targets.box_mask.shape, -1)
    # Real boxes have finite costs only, so the costs alone say which columns are padding.
    padded = cost.masked_fill_(~targets.box_mask[:, None], torch.inf)
    for image, costs in enumerate(padded.cpu().numpy()):
        real = np.flatnonzero(np.isfinite(costs).all(axis=0))
        predictions, columns = linear_sum_assignment(costs[:, real])
        matches[image, real[columns]] = torch.from_numpy(predictions)
    return matches


@torch.no_grad()
def matching_cost(
    logits: Tensor,
    boxes: Tensor,
    targets: DetectionTargets,
    *,
    class_weight: float = 1.0,
    l1_weight: float = 1.0,
    giou_weight: float = 1.0,
    focal_alpha: float | None = 0.3,
    focal_gamma: float = 2.0,
) -> Tensor:
    """What it costs to let each prediction answer for each box.

    The weighted sum of three terms: over the box's labels, the focal loss of the logit as a
    positive less that as a negative (not divided by the number of labels); the L1 distance of the
    boxes as cxcywh; and the negative generalised IoU. Nothing larger than [B, P, Q] or [B, P, M]
    is made.

    Args:
        logits: Of each query on each prediction [B, P, Q].
        boxes: cxcywh in [0, 1] [B, P, 4].
        targets: What there is to find; queries outside ``query_mask`` take no part.
        class_weight: Of the class cost.
        l1_weight: Of the L1 distance between boxes.
        giou_weight: Of the negative generalised IoU.
        focal_alpha: As in :func:`owlkit.losses.focal_loss`; None for plain cross-entropy.
        focal_gamma: As in :func:`owlkit.losses.focal_loss`.

    Returns:
        Costs [B, P, M], float32. Where a cost is not finite, and in the columns of padding, stands
        ``1.1 * c + 10``, with c the image's largest finite cost of a real box (1 if it has none):
        such a pair is chosen last.

    Raises:
        BoxError: If the shapes of the boxes do not fit.
        QueryError: If the shapes of logits, labels and masks do not fit.
    """
    check_shapes(logits, boxes, targets)
    with torch.autocast(logits.device.type, enabled=False):
        boxes, real = boxes.float(), targets.boxes.float()
        cost = _class_cost(logits.float(), targets, focal_alpha, focal_gamma).mul_(class_weight)
        cost.add_(torch.cdist(boxes, real, p=1.0), alpha=l1_weight)
        giou = _pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(real))
        cost.sub_(giou, alpha=giou_weight)
    return _replace_unusable(cost, cost.isfinite() & targets.box_mask[:, None])


def check_shapes(logits: Tensor, boxes: Tensor, targets: DetectionTargets) -> None:
    """Refuses predictions and targets whose shapes would broadcast to something meaningless.

    Args:
        logits: Expected [B, P, Q].
        boxes: Expected [B, P, 4].
        targets: Expected to hold B images and Q queries.

    Raises:
        BoxError: If the shapes of the boxes do not fit.
        QueryError: If the shapes of logits, labels and masks do not fit.
    """
    if logits.ndim != 3:
        raise QueryError(f"expected logits of shape [B, P, Q], found {list(logits.shape)}")
    batch, predictions, queries = logits.shape
    count = targets.box_mask.shape[-1]
    expected = (
        (BoxError, "boxes", boxes, (batch, predictions, 4)),
        (BoxError, "targets.box_mask", targets.box_mask, (batch, count)),
        (BoxError, "targets.boxes", targets.boxes, (batch, count, 4)),
        (QueryError, "targets.labels", targets.labels, (batch, count, queries)),
        (QueryError, "targets.query_mask", targets.query_mask, (batch, queries)),
    )
    for error, name, tensor, shape in expected:
        if tensor.shape != shape:
            raise error(
                f"expected {name} of shape {list(shape)} beside logits of shape "
                f"{list(logits.shape)}, found {list(tensor.shape)}"
            )


def _class_cost(
    logits: Tensor, targets: DetectionTargets, alpha: float | None, gamma: float
) -> Tensor:
    """Sum over each box's labels of what a positive costs more than a negative [B, P, M]."""
    gain = uniform_focal_loss(logits, target=True, alpha=alpha, gamma=gamma)
    gain.sub_(uniform_focal_loss(logits, target=False, alpha=alpha, gamma=gamma))
    # Filled, not multiplied by 0, which would let a masked NaN through.
    gain.masked_fill_(~targets.query_mask[:, None], 0)
    return gain @ targets.labels.float().mT


def _pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of xyxy [B, P, 4] and [B, M, 4], one coordinate at a time [B, P, M].

    :func:`owlkit.ops.generalized_box_iou` holds both coordinates of every pair of corners, which
    here would be the largest tensors of a training step.
    """
    overlap_x, hull_x = _overlap_and_hull(a[..., 0::2], b[..., 0::2])
    overlap_y, hull_y = _overlap_and_hull(a[..., 1::2], b[..., 1::2])
    intersection = overlap_x.clamp_min_(0).mul_(overlap_y.clamp_min_(0))
    union = (_area(a)[:, :, None] + _area(b)[:, None]).sub_(intersection)
    hull = hull_x.mul_(hull_y)
    empty_share = (hull - union).div_(hull.add_(GIOU_EPS))
    return intersection.div_(union.add_(GIOU_EPS)).sub_(empty_share)


def _overlap_and_hull(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths [B, P, M] that intervals [B, P, 2] and [B, M, 2] share and span together.

    The overlap of intervals that lie apart is negative: minus the gap between them.
    """
    a, b = a[:, :, None], b[:, None]
    overlap = torch.minimum(a[..., 1], b[..., 1])
    overlap -= torch.maximum(a[..., 0], b[..., 0])
    # What two intervals span is their lengths less what they share.
    return overlap, (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - overlap


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _replace_unusable(cost: Tensor, usable: Tensor) -> Tensor:
    """Puts a cost above all others of the image where a pair cannot be used [B, P, M]."""
    if cost.numel() == 0:
        return cost
    largest = cost.masked_fill(~usable, -torch.inf).amax(dim=(1, 2), keepdim=True)
    largest = largest.where(largest.isfinite(), 1)
    return cost.where(usable, 1.1 * largest + 10)
