"""Matching problems for the tests: scenic's own, and random ones."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from owlkit.structures import DetectionTargets


class Problem(NamedTuple):
    logits: Tensor
    boxes: Tensor
    targets: DetectionTargets

    def require_grad(self) -> "Problem":
        self.logits.requires_grad_()
        self.boxes.requires_grad_()
        return self


def golden_problem(folder: Path) -> Problem:
    """Group 07 without its first column, the padding query, which takes no part in owlkit."""
    inputs = np.load(folder / "inputs.npz")
    logits = torch.tensor(inputs["pred_logits"])[:, :, 1:]
    labels = torch.tensor(inputs["target_labels"])[:, :, 1:]
    count = torch.tensor(inputs["num_objects"])[:, None]
    queries = logits.shape[2] - torch.tensor(inputs["num_padded_queries"])[:, None]
    targets = DetectionTargets(
        boxes=torch.tensor(inputs["target_boxes"]),
        labels=labels,
        box_mask=torch.arange(labels.shape[1]) < count,
        query_mask=torch.arange(labels.shape[2]) < queries,
    )
    return Problem(logits, torch.tensor(inputs["pred_boxes"]), targets)


def golden_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """The sets of coefficients of group 07, as arguments of DetectionLoss."""
    configs = json.loads((folder / "configs.json").read_text())
    return {
        name: {
            "class_weight": config["class_loss_coef"],
            "l1_weight": config["bbox_loss_coef"],
            "giou_weight": config["giou_loss_coef"],
            "focal_alpha": config.get("focal_alpha") if config["focal_loss"] else None,
            "focal_gamma": config.get("focal_gamma", 2.0),
            "normalization": config["normalization"],
        }
        for name, config in configs.items()
    }


def random_problem(
    counts: list[int], *, predictions: int = 7, queries: int = 5, most: int | None = None, seed=0
) -> Problem:
    """As many boxes as ``counts`` says in each image, padded to ``most``; the last query is masked.

    Box j of an image has label j modulo the real queries, every third box one label more.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, most = len(counts), max(counts) if most is None else most
    box_mask = torch.arange(most) < torch.tensor(counts)[:, None]
    labels = torch.zeros(batch, most, queries)
    for box in range(most):
        labels[:, box, box % (queries - 1)] = 1
        if box % 3 == 2:
            labels[:, box, (box + 1) % (queries - 1)] = 1
    query_mask = (torch.arange(queries) < queries - 1).expand(batch, -1).clone()
    return Problem(
        3 * torch.randn(batch, predictions, queries, generator=generator),
        _random_boxes(batch, predictions, generator),
        DetectionTargets(
            _random_boxes(batch, most, generator) * box_mask[..., None],
            labels * box_mask[..., None],
            box_mask,
            query_mask,
        ),
    )


def _random_boxes(batch: int, count: int, generator: torch.Generator) -> Tensor:
    centres = 0.2 + 0.6 * torch.rand(batch, count, 2, generator=generator)
    return torch.cat([centres, 0.4 * torch.rand(batch, count, 2, generator=generator)], dim=2)
