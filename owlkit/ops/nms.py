"""Non-maximum suppression (NMS) on tensors.

Shapes: N boxes, K kept. Boxes are xyxy in any unit. All decisions are made in float64: in float32
an IoU of 3/10 compares as larger than a threshold of 0.3, although it is equal.
`owlkit.postprocess` holds the same three functions on numpy arrays, with the same results.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torchvision import ops  # type: ignore[import-untyped]

from owlkit.errors import BoxError
from owlkit.ops.boxes import box_iou
from owlkit.suppression import check_decay, check_iou_threshold


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keeps the best of every group of overlapping boxes, whatever their class.

    Boxes are taken by descending score (equal scores: lower index first), and a box is dropped
    if its IoU with one already kept is strictly above the threshold. Same as
    ``torchvision.ops.nms``, which does the work.

    Args:
        boxes: xyxy [N, 4], finite.
        scores: [N], finite; need not be probabilities.
        iou_threshold: In [0, 1].

    Returns:
        Kept indices [K], int64, by descending score.

    Raises:
        BoxError: On a wrong shape, different lengths, a non-finite value or a threshold outside
            [0, 1].

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]])
        >>> nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5)
        tensor([1, 2])
    """
    _check_boxes(boxes, scores)
    check_iou_threshold(iou_threshold)
    kept: Tensor = ops.nms(_float64(boxes), _float64(scores), iou_threshold)
    return kept.to(boxes.device)


def batched_nms(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """:func:`nms` inside each class: boxes of different classes never suppress each other.

    The classes are handled one by one. ``torchvision.ops.batched_nms`` instead moves them apart by
    adding an offset to the coordinates, which is wrong for negative coordinates and loses the
    last digits of small boxes when there are many classes.

    Args:
        boxes: xyxy [N, 4], finite.
        scores: [N], finite.
        classes: Class of each box [N], integers.
        iou_threshold: In [0, 1].

    Returns:
        Kept indices [K] of all classes, int64, by descending score (equal scores: lower index
        first).

    Raises:
        BoxError: As :func:`nms`, and if ``classes`` is not [N] integers.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]])
        >>> batched_nms(boxes, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 0, 1]), 0.5)
        tensor([1, 2])
    """
    _check_boxes(boxes, scores)
    _check_classes(classes, scores)
    check_iou_threshold(iou_threshold)
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for members in _members_of_classes(classes):
        if len(members) > 1:
            members = members[nms(boxes[members], scores[members], iou_threshold)]
        keep[members] = True
    kept = keep.nonzero().squeeze(1)
    return kept[scores[kept].argsort(descending=True, stable=True)]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    method: Literal["linear", "gaussian"] = "linear",
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    classes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Lowers the scores of overlapping boxes instead of dropping them: Soft-NMS [0].

    Picks the largest current score again and again (equal scores: lower index first), and after
    each pick multiplies the scores that remain by a factor: ``linear`` by 1 - IoU where the IoU
    is above ``iou_threshold``, ``gaussian`` by exp(-IoU^2 / sigma) everywhere. Picks follow one
    another, so this runs on the CPU whatever the device of the tensors.

    - [0]: Soft-NMS - Improving Object Detection With One Line of Code, 2017,
      https://arxiv.org/abs/1704.04503

    Args:
        boxes: xyxy [N, 4], finite.
        scores: [N], finite.
        method: How a score decays.
        iou_threshold: Overlap that ``linear`` leaves alone, in [0, 1].
        sigma: Width of the ``gaussian`` decay, positive.
        score_threshold: Boxes are kept while their decayed score is strictly above, at least 0.
        classes: Integers [N]; if given, only boxes of the same class lower each other's score.

    Returns:
        Kept indices [K], int64, in the order of the picks (by descending decayed score), and
        their decayed scores [K] in the dtype of ``scores``.

    Raises:
        BoxError: On a wrong shape, different lengths, a non-finite value, an unknown method or a
            setting out of its range.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [20, 0, 30, 10]])
        >>> soft_nms(boxes, torch.tensor([0.9, 0.8, 0.7]))
        (tensor([0, 2, 1]), tensor([0.9000, 0.7000, 0.4000]))
    """
    _check_boxes(boxes, scores)
    check_decay(method, iou_threshold, sigma, score_threshold)
    groups: tuple[Tensor, ...] = (torch.arange(len(boxes)),)
    if classes is not None:
        _check_classes(classes, scores)
        groups = _members_of_classes(classes.cpu())
    decay = partial(_decay, method=method, iou_threshold=iou_threshold, sigma=sigma)
    boxes_64, decayed = _float64(boxes).cpu(), _float64(scores).cpu().clone()
    for members in groups:
        decayed[members] = _soft_pick(boxes_64[members], decayed[members], decay, score_threshold)
    kept = (decayed > score_threshold).nonzero().squeeze(1)
    kept = kept[decayed[kept].argsort(descending=True, stable=True)]
    dtype = scores.dtype if scores.is_floating_point() else torch.float32
    return kept.to(boxes.device), decayed[kept].to(scores.device, dtype)


def _soft_pick(
    boxes: Tensor, scores: Tensor, decay: Callable[[Tensor], Tensor], score_threshold: float
) -> Tensor:
    """Scores [N] at the moment each box was picked; 0 for boxes that fell to the threshold."""
    remaining, final = scores.clone(), torch.zeros_like(scores)
    for _ in range(len(scores)):
        best = int(remaining.argmax())
        if remaining[best] <= score_threshold:
            break
        final[best] = remaining[best]
        remaining *= decay(box_iou(boxes[best, None], boxes)[0])
        remaining[best] = 0
    return final


def _decay(iou: Tensor, *, method: str, iou_threshold: float, sigma: float) -> Tensor:
    """Factor in [0, 1] by which a picked box lowers the scores of boxes with this IoU [N]."""
    if method == "gaussian":
        return torch.exp(-(iou * iou) / sigma)
    return torch.where(iou > iou_threshold, 1 - iou, 1)


def _members_of_classes(classes: Tensor) -> tuple[Tensor, ...]:
    """Indices of the boxes of each class, ascending inside a class."""
    counts = torch.unique(classes, return_counts=True)[1]
    return torch.split(classes.argsort(stable=True), counts.tolist())


def _float64(tensor: Tensor) -> Tensor:
    # Apple's GPUs have no float64.
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).detach().double()


def _check_boxes(boxes: Tensor, scores: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[-1] != 4:
        raise BoxError(f"expected boxes of shape [N, 4], found {list(boxes.shape)}")
    if scores.shape != (len(boxes),):
        raise BoxError(f"expected scores of shape [{len(boxes)}], found {list(scores.shape)}")
    for name, values in (("scores", scores), ("boxes", boxes)):
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            index = tuple(bad[0].tolist())
            raise BoxError(
                f"expected finite {name}, found {values[index].item()} at index {index[0]}"
            )


def _check_classes(classes: Tensor, scores: Tensor) -> None:
    if classes.shape != scores.shape:
        raise BoxError(f"expected classes of shape [{len(scores)}], found {list(classes.shape)}")
    if classes.is_floating_point() or classes.is_complex():
        raise BoxError(f"expected integer classes, found {classes.dtype}")
