"""The set loss of OWL-ViT [0]: classes of all predictions, boxes of those that were matched.

Shapes: B images, P predictions, Q queries, M boxes, N matched pairs in the batch, T loss terms.

- [0]: Simple Open-Vocabulary Object Detection with Vision Transformers, 2022,
  https://arxiv.org/abs/2205.06230
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from owlkit.errors import BoxError, ConfigError
from owlkit.losses.focal import focal_loss, uniform_focal_loss
from owlkit.losses.matching import GIOU_EPS, match
from owlkit.losses.objectness import objectness_loss
from owlkit.losses.processes import process_count, sum_over_processes
from owlkit.ops import cxcywh_to_xyxy, paired_generalized_box_iou
from owlkit.structures import DetectionTargets

Normalization = Literal["per_example", "global"]


@dataclass(frozen=True)
class DetectionLosses:
    """The loss of a batch and what it is made of; scalars in float32.

    Attributes:
        total: The weighted sum of the terms, to be minimised.
        classes: Focal loss of every prediction on every real query; like the terms below, as it was
            before its weight.
        l1: L1 distance of matched boxes as corners, in the unit of the boxes.
        giou: 1 - generalised IoU of matched boxes, in [0, 2) per box.
        objectness: OWLv2's term; None if no objectness was given.
        matches: Prediction matched to each box [B, M], int64, on the host; -1 for none.
    """

    total: Tensor
    classes: Tensor
    l1: Tensor
    giou: Tensor
    objectness: Tensor | None
    matches: Tensor


@dataclass(frozen=True)
class _Pairs:
    """Matched pairs as indices [N]: of the image, of the box in it, of the prediction."""

    image: Tensor
    box: Tensor
    prediction: Tensor


class DetectionLoss(nn.Module):
    """Matches predictions to boxes, then sums class, L1, GIoU and objectness losses.

    A matched prediction is positive for the labels of its box; every other pair of prediction and
    real query is negative. Matched boxes are also pulled to their targets.

    The terms of an image are divided by counts, at least 1, that depend on targets only: the class
    term by the number of positive labels, the box terms by the number of boxes; objectness is a
    mean over tokens. The loss of a batch is then the mean over its images. Boxes left over because
    there are more of them than predictions are not learned, but counted. An image without boxes has
    box terms of 0, and a class term of negatives alone.

    Args:
        class_weight: Of the class term, in the matching cost and in the total.
        l1_weight: Of the L1 term, in the matching cost (there on cxcywh) and in the total.
        giou_weight: Of the GIoU term, in the matching cost and in the total.
        focal_alpha: Weight of positives; None for plain sigmoid cross-entropy.
        focal_gamma: How much pairs that are already right count less.
        normalization: ``per_example`` divides each image's sum by its own count. ``global`` divides
            it by the mean count of an image of the batch: sum over sum, over all processes of
            torch.distributed.
        objectness_weight: Of the objectness term in the total.

    Raises:
        ConfigError: If ``normalization`` is none of the two.
    """

    def __init__(
        self,
        *,
        class_weight: float = 1.0,
        l1_weight: float = 1.0,
        giou_weight: float = 1.0,
        focal_alpha: float | None = 0.3,
        focal_gamma: float = 2.0,
        normalization: Normalization = "per_example",
        objectness_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if normalization not in get_args(Normalization):
            raise ConfigError(
                f"normalization must be 'per_example' or 'global', found {normalization!r}"
            )
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.normalization = normalization
        self.objectness_weight = objectness_weight

    def forward(
        self,
        logits: Tensor,
        boxes: Tensor,
        targets: DetectionTargets,
        *,
        objectness: Tensor | None = None,
        example_mask: Tensor | None = None,
    ) -> DetectionLosses:
        """Returns the losses of a batch, computed in float32 whatever the inputs' precision.

        NaN in a logit of a real query makes the total NaN; it never raises.

        Args:
            logits: Of each query on each prediction [B, P, Q].
            boxes: cxcywh in [0, 1] [B, P, 4].
            targets: What there is to find; queries outside ``query_mask`` take no part. Parts of a
                batch bring the ``divisors`` of the whole: the mean of their losses, weighted by
                their images, is then the loss of the batch.
            objectness: Objectness logits of the same predictions [B, P]; None for models without.
            example_mask: True for images that count [B]; others add no loss and no count, though
                ``per_example`` still averages over all B. None for all.

        Raises:
            BoxError: If the shapes of boxes, objectness or ``example_mask`` do not fit.
            QueryError: If the shapes of logits, labels and masks do not fit.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits, boxes = logits.float(), boxes.float()
            matches = self._match(logits, boxes, targets)
            sums = self._matched_sums(logits, boxes, targets, matches)
            if objectness is not None:
                _check_shape("objectness", objectness, logits.shape[:2])
                values = objectness_loss(objectness.float(), logits, targets.query_mask)
                sums = torch.cat([sums, values.mean(dim=1, keepdim=True)], dim=1)
            if example_mask is not None:
                _check_shape("example_mask", example_mask, sums.shape[:1])
                sums = sums.masked_fill(~example_mask.bool()[:, None], 0)
            divisors = targets.divisors
            if divisors is None:
                divisors = self.divisors(targets, example_mask=example_mask)
            terms = (sums / divisors[:, : sums.shape[1]]).mean(dim=0)
            return self._weigh(terms, matches)

    def divisors(self, targets: DetectionTargets, *, example_mask: Tensor | None = None) -> Tensor:
        """What the terms of each image are divided by, before the mean over the images [B, 4].

        For ``global``, all processes must call this together, with equally many images.

        Args:
            targets: Of the whole batch of this process.
            example_mask: As for the loss [B].
        """
        counts = _counts(targets)
        if example_mask is not None:
            counts = counts.masked_fill(~example_mask.bool()[:, None], 0)
        if self.normalization == "per_example":
            return counts.clamp(min=1)
        total = sum_over_processes(counts.sum(dim=0))
        return (total.clamp(min=1) / (len(counts) * process_count())).expand_as(counts)

    def _match(self, logits: Tensor, boxes: Tensor, targets: DetectionTargets) -> Tensor:
        return match(
            logits,
            boxes,
            targets,
            class_weight=self.class_weight,
            l1_weight=self.l1_weight,
            giou_weight=self.giou_weight,
            focal_alpha=self.focal_alpha,
            focal_gamma=self.focal_gamma,
        )

    def _matched_sums(
        self, logits: Tensor, boxes: Tensor, targets: DetectionTargets, matches: Tensor
    ) -> Tensor:
        """Class, L1 and GIoU losses, summed over each image [B, 3]."""
        pairs = _pairs(matches, logits.device)
        found = cxcywh_to_xyxy(boxes[pairs.image, pairs.prediction])  # [N, 4]
        real = cxcywh_to_xyxy(targets.boxes[pairs.image, pairs.box].float())
        l1 = (found - real).abs().sum(dim=1)
        giou = 1 - paired_generalized_box_iou(found, real, eps=GIOU_EPS)
        values = torch.stack([self._matched_classes(logits, targets, pairs), l1, giou], dim=1)
        # Laid out by image before they are summed: a scattered sum has no fixed order on a GPU.
        table = values.new_zeros(*matches.shape, 3)
        table[pairs.image, pairs.box] = values
        sums = table.sum(dim=1)
        unmatched = self._unmatched_classes(logits, targets, pairs)
        return torch.cat([sums[:, :1] + unmatched[:, None], sums[:, 1:]], dim=1)

    def _matched_classes(self, logits: Tensor, targets: DetectionTargets, pairs: _Pairs) -> Tensor:
        """Class loss of each matched prediction against its box's labels [N]."""
        labels = targets.labels[pairs.image, pairs.box]  # [N, Q]
        matched = logits[pairs.image, pairs.prediction]
        losses = focal_loss(matched, labels, alpha=self.focal_alpha, gamma=self.focal_gamma)
        return losses.masked_fill(~targets.query_mask[pairs.image], 0).sum(dim=1)

    def _unmatched_classes(
        self, logits: Tensor, targets: DetectionTargets, pairs: _Pairs
    ) -> Tensor:
        """Class loss of all other predictions, negative for every query, by image [B].

        The only tensors of the size of the logits that outlive the matching are made here; there is
        no table of targets.
        """
        losses = uniform_focal_loss(
            logits, target=False, alpha=self.focal_alpha, gamma=self.focal_gamma
        )
        losses = losses.masked_fill_(~targets.query_mask[:, None], 0).sum(dim=2)  # [B, P]
        matched = torch.zeros_like(losses, dtype=torch.bool)
        matched[pairs.image, pairs.prediction] = True
        return losses.masked_fill(matched, 0).sum(dim=1)

    def _weigh(self, terms: Tensor, matches: Tensor) -> DetectionLosses:
        classes, l1, giou, *rest = terms.unbind()
        total = self.class_weight * classes + self.l1_weight * l1 + self.giou_weight * giou
        objectness = rest[0] if rest else None
        if objectness is not None:
            total = total + self.objectness_weight * objectness
        return DetectionLosses(total, classes, l1, giou, objectness, matches)


def _pairs(matches: Tensor, device: torch.device) -> _Pairs:
    """The matched pairs on the device; found on the host, so that nothing waits for the device."""
    image, box = (matches >= 0).nonzero(as_tuple=True)
    return _Pairs(*torch.stack([image, box, matches[image, box]]).to(device).unbind())


def _counts(targets: DetectionTargets) -> Tensor:
    """Of each image, positive labels, boxes, boxes again, and 1: one count for each term [B, 4]."""
    labels = targets.labels.float().masked_fill(~targets.box_mask[:, :, None], 0).sum(dim=1)
    positives = labels.masked_fill(~targets.query_mask, 0).sum(dim=1)
    boxes = targets.box_mask.sum(dim=1).to(positives.dtype)
    return torch.stack([positives, boxes, boxes, torch.ones_like(boxes)], dim=1)


def _check_shape(name: str, tensor: Tensor, shape: torch.Size) -> None:
    if tensor.shape != shape:
        raise BoxError(f"expected {name} of shape {list(shape)}, found {list(tensor.shape)}")
