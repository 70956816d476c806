"""How good a detector is: COCO's and LVIS's box metrics, base and novel classes apart."""

from owlkit.evaluation.coco import BoxMetrics, evaluate_boxes, measure_boxes, split_metrics
from owlkit.evaluation.lvis import evaluate_lvis, measure_lvis

__all__ = [
    "BoxMetrics",
    "evaluate_boxes",
    "evaluate_lvis",
    "measure_boxes",
    "measure_lvis",
    "split_metrics",
]
