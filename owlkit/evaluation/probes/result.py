"""What a probe learns and what it reports.

Shapes: N rows, E features, C classes.
"""

from dataclasses import dataclass

from torch import Tensor

from owlkit.evaluation.zero_shot import classification_metrics


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy of a probe on the test rows, in [0, 1].

    Attributes:
        top1: Share of rows whose class is the best.
        top5: Share of rows whose class is among the five best.
        mean_per_class_recall: Mean over the classes that occur.
        strength: Of the regularisation that was chosen; what it multiplies is told by the probe.
            None where there is none.
        learning_rate: That was chosen; None for probes with a closed form or a line search.
    """

    top1: float
    top5: float
    mean_per_class_recall: float
    strength: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """Scores as a linear function of features.

    Attributes:
        weight: [E, C].
        bias: [C].
    """

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Scores of all classes [N, C] for features [N, E]."""
        return features.to(self.weight.dtype) @ self.weight + self.bias


def result_of(
    scores: Tensor,
    labels: Tensor,
    *,
    strength: float | None = None,
    learning_rate: float | None = None,
) -> ProbeResult:
    """The metrics of scores [N, C] for labels [N], with the settings that were chosen."""
    metrics = classification_metrics(scores, labels)
    return ProbeResult(**metrics, strength=strength, learning_rate=learning_rate)
