"""How good a detector is by COCO's and LVIS's metrics, and how good an encoder by its features."""

from owlkit.evaluation.coco import BoxMetrics, evaluate_boxes, measure_boxes, split_metrics
from owlkit.evaluation.knn import knn_accuracy, knn_sweep, knn_votes
from owlkit.evaluation.lvis import evaluate_lvis, measure_lvis
from owlkit.evaluation.probes import (
    LinearSchedule,
    ProbeResult,
    few_shot_indices,
    linear_probe,
    logistic_probe,
    prototype_accuracy,
    ridge_probe,
)
from owlkit.evaluation.retrieval import RetrievalRanks, recall_at_k, retrieval_ranks
from owlkit.evaluation.zero_shot import (
    average_prompts,
    classification_metrics,
    confusion_matrix,
    multilabel_average_precision,
    multilabel_metrics,
    per_class_recall,
    zero_shot_scores,
)

__all__ = [
    "BoxMetrics",
    "LinearSchedule",
    "ProbeResult",
    "RetrievalRanks",
    "average_prompts",
    "classification_metrics",
    "confusion_matrix",
    "evaluate_boxes",
    "evaluate_lvis",
    "few_shot_indices",
    "knn_accuracy",
    "knn_sweep",
    "knn_votes",
    "linear_probe",
    "logistic_probe",
    "measure_boxes",
    "measure_lvis",
    "multilabel_average_precision",
    "multilabel_metrics",
    "per_class_recall",
    "prototype_accuracy",
    "recall_at_k",
    "retrieval_ranks",
    "ridge_probe",
    "split_metrics",
    "zero_shot_scores",
]
