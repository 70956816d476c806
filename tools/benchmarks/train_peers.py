"""What a step of detector training is compared with.

:class:`TransformersStep` is how one would train transformers' OWL-ViT: its model on all images,
each with its own queries, and DETR's loss [0] as its code has it, image by image.

- [0]: End-to-End Object Detection with Transformers, 2020, https://arxiv.org/abs/2005.12872
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.ops import box_convert, generalized_box_iou, sigmoid_focal_loss

from benchmarks.train_step import BATCH, LOSS, OPTIM, SIZE
from owlkit.encoders.text import OWL_CONTEXT_LENGTH
from owlkit.structures import DetectionBatch


@dataclass(frozen=True)
class PlainTarget:
    """What is in one image: cxcywh in [0, 1] [N, 4], and a 1 for each label [N, Q]."""

    boxes: Tensor
    labels: Tensor


class TransformersStep:
    """A step of a trainer around ``OwlViTForObjectDetection``, again and again.

    The model wants a row of tokens for each query of each image, full length, as its processor
    makes them. AdamW is the fused one and clipping torch's, as transformers' own trainer has them.
    Pixels are normalised and texts tokenised before the clock starts.

    Args:
        folder: Of the model.
        batch: On the CPU.
        precision: Of activations.
        device: Where it runs.
    """

    def __init__(
        self, folder: Path, batch: DetectionBatch, *, precision: str, device: torch.device
    ) -> None:
        model: Any = transformers.OwlViTForObjectDetection.from_pretrained(folder)
        processor: Any = transformers.OwlViTProcessor.from_pretrained(folder)
        self.model = model.to(device).train()
        self.dtype = getattr(torch, precision)
        texts = [batch.texts[index] for queries in batch.queries for index in queries.tolist()]
        tokens = processor.tokenizer(
            texts, padding="max_length", max_length=OWL_CONTEXT_LENGTH, return_tensors="pt"
        )
        settings = processor.image_processor
        mean, std = (
            torch.tensor(values)[:, None, None] * 255
            for values in (settings.image_mean, settings.image_std)
        )
        self.inputs = {
            "pixel_values": ((batch.images - mean) / std).contiguous().to(device),
            "input_ids": tokens["input_ids"].to(device),
            "attention_mask": tokens["attention_mask"].to(device),
        }
        self.targets = _plain_targets(batch, device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=OPTIM.lr,
            betas=OPTIM.betas,
            eps=OPTIM.eps,
            weight_decay=OPTIM.weight_decay,
            fused=True,
        )

    def __call__(self) -> float:
        """Forward, loss, backward, clipping, AdamW; returns the loss."""
        mixed = self.dtype != torch.float32
        device_type = self.model.device.type
        with torch.autocast(device_type, dtype=self.dtype, enabled=mixed):
            outputs = self.model(**self.inputs)
        loss = plain_loss(outputs.logits.float(), outputs.pred_boxes.float(), self.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIM.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


class BareTower:
    """Forward and backward pass of a timm image tower, and nothing else.

    Args:
        model: Is copied.
        precision: Of activations.
        device: Where it runs.
    """

    def __init__(self, model: nn.Module, *, precision: str, device: torch.device) -> None:
        self.model: Any = copy.deepcopy(model).to(device).train()
        self.pixels = torch.randn(BATCH, 3, SIZE, SIZE, device=device)
        self.dtype = getattr(torch, precision)

    def __call__(self) -> None:
        """The loss is the mean of all tokens."""
        mixed = self.dtype != torch.float32
        with torch.autocast(self.pixels.device.type, dtype=self.dtype, enabled=mixed):
            loss = self.model.forward_features(self.pixels).mean()
        loss.backward()
        self.model.zero_grad()


def plain_loss(logits: Tensor, boxes: Tensor, targets: Sequence[PlainTarget]) -> Tensor:
    """Set loss as DETR's code computes it, with OWL-ViT's terms.

    Args:
        logits: [B, P, Q].
        boxes: cxcywh in [0, 1] [B, P, 4].
        targets: Of the B images.

    Returns:
        Weighted sum of focal loss by positive, L1 and GIoU loss by box.
    """
    classes = l1 = giou = torch.zeros((), device=logits.device)
    for image_logits, image_boxes, target in zip(logits, boxes, targets, strict=True):
        predictions, found = _match(image_logits, image_boxes, target)
        wanted = torch.zeros_like(image_logits)
        wanted[predictions] = target.labels[found]
        classes = classes + sigmoid_focal_loss(
            image_logits, wanted, alpha=LOSS.focal_alpha, gamma=LOSS.focal_gamma, reduction="sum"
        )
        ours = box_convert(image_boxes[predictions], "cxcywh", "xyxy")
        real = box_convert(target.boxes[found], "cxcywh", "xyxy")
        l1 = l1 + F.l1_loss(ours, real, reduction="sum")
        giou = giou + (1 - torch.diag(generalized_box_iou(ours, real))).sum()
    positives = sum(target.labels.sum() for target in targets)
    count = sum(len(target.boxes) for target in targets)
    box_terms = (LOSS.l1_weight * l1 + LOSS.giou_weight * giou) / count
    return LOSS.class_weight * classes / positives + box_terms


@torch.no_grad()
def _match(logits: Tensor, boxes: Tensor, target: PlainTarget) -> tuple[Tensor, Tensor]:
    """Predictions and the boxes that they answer for."""
    alpha, gamma = LOSS.focal_alpha, LOSS.focal_gamma
    positive = -F.logsigmoid(logits) * alpha * (1 - logits.sigmoid()) ** gamma
    negative = -F.logsigmoid(-logits) * (1 - alpha) * logits.sigmoid() ** gamma
    cost_class = (positive - negative) @ target.labels.T
    cost_box = torch.cdist(boxes, target.boxes, p=1)
    corners = [box_convert(part, "cxcywh", "xyxy") for part in (boxes, target.boxes)]
    cost = (
        LOSS.class_weight * cost_class
        + LOSS.l1_weight * cost_box
        - LOSS.giou_weight * generalized_box_iou(*corners)
    )
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.from_numpy(rows).to(boxes.device), torch.from_numpy(columns).to(boxes.device)


def _plain_targets(batch: DetectionBatch, device: torch.device) -> list[PlainTarget]:
    targets = batch.targets
    return [
        PlainTarget(boxes[real].to(device), labels[real].float().to(device))
        for boxes, labels, real in zip(targets.boxes, targets.labels, targets.box_mask, strict=True)
    ]
