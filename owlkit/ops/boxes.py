"""Box formats and overlaps on tensors.

Shapes: N and M boxes, ``...`` any leading dimensions. A box is ``xyxy`` (x0, y0, x1, y1) or
``cxcywh`` (centre x, centre y, width, height), x to the right and y down, in pixels or as a
fraction of the image: any unit, as long as all arguments share it.

The overlaps exist in two conventions. ``eps=0`` is DETR's and torchvision's, with the undefined
0/0 of two empty boxes set to 0; ``eps=1e-6`` is scenic's, with which OWL-ViT was trained. On boxes
in [0, 1] they differ visibly: a 0.001 x 0.001 box has IoU 1 with itself by the first and 0.5 by the
second.
"""

import torch
from torch import Tensor
from torchvision.ops import box_convert  # type: ignore[import-untyped]

from owlkit.errors import BoxError


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Turns centres and sizes into corners.

    Args:
        boxes: cxcywh [..., 4].

    Returns:
        xyxy [..., 4], in the unit of the input.

    Raises:
        BoxError: If the last dimension is not 4.

    Example:
        >>> cxcywh_to_xyxy(torch.tensor([0.5, 0.25, 0.5, 0.5]))
        tensor([0.2500, 0.0000, 0.7500, 0.5000])
    """
    _check_last_dimension("boxes", boxes)
    corners: Tensor = box_convert(boxes, "cxcywh", "xyxy")
    return corners


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Turns corners into centres and sizes.

    Args:
        boxes: xyxy [..., 4].

    Returns:
        cxcywh [..., 4], in the unit of the input.

    Raises:
        BoxError: If the last dimension is not 4.

    Example:
        >>> xyxy_to_cxcywh(torch.tensor([0.25, 0.0, 0.75, 0.5]))
        tensor([0.5000, 0.2500, 0.5000, 0.5000])
    """
    _check_last_dimension("boxes", boxes)
    centred: Tensor = box_convert(boxes, "xyxy", "cxcywh")
    return centred


def box_iou(a: Tensor, b: Tensor, *, eps: float = 0.0) -> Tensor:
    """Intersection over union of every box in ``a`` with every box in ``b``.

    A box whose x1 < x0 or y1 < y0 counts as empty: it overlaps nothing.

    Args:
        a: xyxy [N, 4].
        b: xyxy [M, 4], in the unit of ``a``.
        eps: Added to the union; 0 is DETR's convention, 1e-6 scenic's.

    Returns:
        IoU [N, M] in [0, 1]; 0 where both boxes are empty. Half precision and integers are
        widened to float32, because the area of a large box overflows a half.

    Raises:
        BoxError: If a shape is not [N, 4] or ``eps`` is negative.

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
        >>> box_iou(a, torch.tensor([[0.0, 0.0, 2.0, 1.0], [5.0, 5.0, 6.0, 6.0]]))
        tensor([[0.5000, 0.0000]])
    """
    a, b = _pairwise(a, b, eps)
    intersection, union = _intersection_and_union(a, b)
    return _ratio(intersection, union, eps)


def generalized_box_iou(a: Tensor, b: Tensor, *, eps: float = 0.0) -> Tensor:
    """Generalised IoU [0] of every box in ``a`` with every box in ``b``.

    IoU minus the share of the smallest enclosing box (the hull) that neither box covers. Unlike
    the IoU it still tells near from far when the boxes do not touch.

    - [0]: Generalized Intersection over Union, 2019, https://arxiv.org/abs/1902.09630

    Args:
        a: xyxy [N, 4].
        b: xyxy [M, 4], in the unit of ``a``.
        eps: Added to the union and to the hull; 0 is DETR's convention, 1e-6 scenic's.

    Returns:
        GIoU [N, M] in (-1, 1]; 0 where both boxes are the same point. Gradients are finite.

    Raises:
        BoxError: If a shape is not [N, 4] or ``eps`` is negative.

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        >>> generalized_box_iou(a, torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 2.0, 2.0]]))
        tensor([[ 1.0000, -0.2500]])
    """
    a, b = _pairwise(a, b, eps)
    return _generalized(a, b, eps)


def paired_generalized_box_iou(a: Tensor, b: Tensor, *, eps: float = 0.0) -> Tensor:
    """Generalised IoU of each box in ``a`` with the box in ``b`` of the same index.

    The diagonal of :func:`generalized_box_iou` without the rest of the matrix; for losses over
    matched boxes.

    Args:
        a: xyxy [N, 4].
        b: xyxy [N, 4], in the unit of ``a``.
        eps: Added to the union and to the hull; 0 is DETR's convention, 1e-6 scenic's.

    Returns:
        GIoU [N] in (-1, 1].

    Raises:
        BoxError: If a shape is not [N, 4], the lengths differ or ``eps`` is negative.

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
        >>> paired_generalized_box_iou(a, a + torch.tensor([[0.0], [1.0]]))
        tensor([ 1.0000, -0.5000])
    """
    _check_matrix("a", a)
    _check_matrix("b", b)
    _check_eps(eps)
    if len(a) != len(b):
        raise BoxError(f"expected as many boxes in b as in a ({len(a)}), found {len(b)}")
    return _generalized(_widened(a), _widened(b), eps)


def _pairwise(a: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Checks both lists and returns them as [N, 1, 4] and [1, M, 4]."""
    _check_matrix("a", a)
    _check_matrix("b", b)
    _check_eps(eps)
    return _widened(a)[:, None], _widened(b)[None]


def _generalized(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """GIoU of boxes [..., 4] that broadcast against each other."""
    intersection, union = _intersection_and_union(a, b)
    corner_0 = torch.minimum(a[..., :2], b[..., :2])
    corner_1 = torch.maximum(a[..., 2:], b[..., 2:])
    hull = _positive(corner_1 - corner_0).prod(dim=-1)
    return _ratio(intersection, union, eps) - _ratio(hull - union, hull, eps)


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas [...] of boxes [..., 4] that broadcast against each other."""
    corner_0 = torch.maximum(a[..., :2], b[..., :2])
    corner_1 = torch.minimum(a[..., 2:], b[..., 2:])
    intersection = _positive(corner_1 - corner_0).prod(dim=-1)
    return intersection, _area(a) + _area(b) - intersection


def _area(boxes: Tensor) -> Tensor:
    size = boxes[..., 2:] - boxes[..., :2]
    # A size of exactly 0 keeps its gradient, so that an empty box can grow.
    return size.where(size >= 0, 0).prod(dim=-1)


def _positive(size: Tensor) -> Tensor:
    """The size, or 0 where it is negative."""
    # At exactly 0 the gradient of a maximum is one half, as in scenic; that of clamp is 0.
    return torch.maximum(size, size.new_zeros(()))


def _ratio(numerator: Tensor, denominator: Tensor, eps: float) -> Tensor:
    """The quotient; without ``eps``, 0 where the denominator is 0."""
    if eps > 0:
        return numerator / (denominator + eps)
    # Below the smallest normal number the gradient of a quotient overflows. The denominator is
    # replaced before the division: replacing only the result would leave NaN in the gradient.
    empty = denominator < torch.finfo(denominator.dtype).tiny
    return (numerator / denominator.masked_fill(empty, 1)).masked_fill(empty, 0)


def _widened(boxes: Tensor) -> Tensor:
    return boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()


def _check_last_dimension(name: str, boxes: Tensor) -> None:
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise BoxError(f"expected {name} of shape [..., 4], found {list(boxes.shape)}")


def _check_matrix(name: str, boxes: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[-1] != 4:
        raise BoxError(f"expected {name} of shape [N, 4], found {list(boxes.shape)}")


def _check_eps(eps: float) -> None:
    if not eps >= 0:
        raise BoxError(f"expected eps >= 0, found {eps}")
