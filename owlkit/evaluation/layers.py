"""Linear evaluation of self-supervised towers: the best of several layers and learning rates [0].

The images pass the tower once. A grid of linear layers learns from what that gives: the pooled
vector of the last block or of the last four, with or without the mean of the last block's patches,
each with 13 learning rates. Unlike the authors this learns from the centre of each image alone,
without random crops, and chooses by training images held out, not by those it is measured on.

Shapes: N training rows, M test rows, L blocks, E width of the layers' vectors, C classes.

- [0]: DINOv2, 2023, https://arxiv.org/abs/2304.07193; the grid is that of
  https://github.com/facebookresearch/dinov2, dinov2/eval/linear.py
"""

from dataclasses import dataclass, replace

from torch import Tensor

from owlkit.data.class_images import ClassImages
from owlkit.evaluation.encoder import ClassFeatures, check_same_classes, encode_classes
from owlkit.evaluation.feature_kinds import count_layers
from owlkit.evaluation.features import Encoder
from owlkit.evaluation.labelled import check_train_and_test, count_classes
from owlkit.evaluation.probes import LinearSchedule, ProbeResult, fit_linear
from owlkit.evaluation.probes.choice import hold_out
from owlkit.evaluation.probes.result import result_of
from owlkit.evaluation.zero_shot import classification_metrics

LAYER_RATES: tuple[float, ...] = (
    *(digit * 10.0**power for power in range(-5, -1) for digit in (1, 2, 5)),
    0.1,
)
"""1e-5 to 0.1 in 13 steps, for batches of 256; larger batches take proportionally larger ones."""

_SCHEDULE = LinearSchedule(optimizer="sgd", learning_rates=LAYER_RATES, weight_decays=(0.0,))
_RATED_BATCH = 256


@dataclass(frozen=True)
class LayerInput:
    """What a linear layer of the grid sees.

    Attributes:
        blocks: Of how many of the last blocks the pooled vectors are taken, from 1 to L.
        patches: Whether the mean of the last block's patches stands beside them.
    """

    blocks: int
    patches: bool

    def cut(self, features: Tensor, *, layers: int, width: int) -> Tensor:
        """Its columns of vectors of the kind ``layers``.

        Args:
            features: [N, E], E = (L + 1) * width.
            layers: L.
            width: Of one pooled vector.
        """
        end = features.shape[1] if self.patches else layers * width
        return features[:, (layers - self.blocks) * width : end]


@dataclass(frozen=True)
class LayersResult:
    """Accuracy of the best layer of the grid, and which it is.

    Attributes:
        accuracy: With the learning rate that was chosen, for the schedule's batch size.
        input: What was chosen to learn from.
    """

    accuracy: ProbeResult
    input: LayerInput

    def metrics(self) -> dict[str, float]:
        """``layers_top1`` and so on, in [0, 1]; ``layers_blocks``, ``layers_patches`` (0 or 1)."""
        found = {
            "top1": self.accuracy.top1,
            "top5": self.accuracy.top5,
            "mean_per_class_recall": self.accuracy.mean_per_class_recall,
            "learning_rate": self.accuracy.learning_rate or 0.0,
            "blocks": float(self.input.blocks),
            "patches": float(self.input.patches),
        }
        return {f"layers_{name}": value for name, value in found.items()}


def measure_layers(
    encoder: Encoder, train: ClassImages, test: ClassImages, *, seed: int = 0
) -> dict[str, float]:
    """Classifies images by the best of a grid of linear layers; see this module.

    Args:
        encoder: Of a vision transformer.
        train: What to learn from, of the same classes.
        test: What to measure on.
        seed: Of the images held out to choose by, and of the order of batches.

    Returns:
        See :meth:`LayersResult.metrics`.

    Raises:
        TokenError: If the tower is no vision transformer.
        DatasetError: If the classes differ, there are too few images or too many are unreadable.
    """
    check_same_classes(train, test)
    layers = count_layers(encoder.vision)
    learn, measure = (encode_classes(encoder, images, "layers") for images in (train, test))
    return layers_probe(learn, measure, layers=layers, seed=seed).metrics()


def layers_probe(
    train: ClassFeatures,
    test: ClassFeatures,
    *,
    layers: int,
    schedule: LinearSchedule = _SCHEDULE,
    held_out: float = 0.2,
    seed: int = 0,
) -> LayersResult:
    """Accuracy of the linear layer of the grid that is best on training rows held out.

    With what was chosen, a layer learns from all training rows again. Features are taken as they
    are, not normalised, as the authors do.

    Args:
        train: Vectors of the kind ``layers`` [N, E].
        test: Likewise [M, E].
        layers: L.
        schedule: How to train, with one weight decay. Its learning rates are for batches of 256.
        held_out: Share of the training rows of each class, above 0 and below 1.
        seed: Of the choice of rows held out and of the order of the batches.

    Raises:
        ConfigError: If ``held_out`` is out of range.
        DatasetError: If features and labels do not fit.
    """
    check_train_and_test(train.features, train.labels, test.features, test.labels)
    width = train.features.shape[1] // (layers + 1)
    rates = [rate * schedule.batch_size / _RATED_BATCH for rate in schedule.learning_rates]
    scaled = replace(schedule, learning_rates=tuple(rates))
    classes = count_classes(train.labels, test.labels)
    rows, held = hold_out(train.labels, held_out, seed)
    grid: list[tuple[float, LayerInput, float]] = []
    for one in layer_inputs(layers) if len(held) else ():
        seen = one.cut(train.features, layers=layers, width=width)
        fitted = fit_linear(seen[rows], train.labels[rows], scaled, classes=classes, seed=seed)
        for (rate, _), classifier in zip(scaled.settings(), fitted, strict=True):
            scores = classifier.scores(seen[held])
            grid.append((classification_metrics(scores, train.labels[held])["top1"], one, rate))
    # Of equally good ones the first. Where nothing can be held out: the plainest, a middle rate.
    plain = (0.0, LayerInput(1, patches=False), rates[len(rates) // 2])
    _, chosen, rate = max(grid or [plain], key=lambda each: each[0])
    learn, measure = (
        chosen.cut(each.features, layers=layers, width=width) for each in (train, test)
    )
    one_rate = replace(scaled, learning_rates=(rate,))
    (classifier,) = fit_linear(learn, train.labels, one_rate, classes=classes, seed=seed)
    accuracy = result_of(classifier.scores(measure), test.labels, learning_rate=rate)
    return LayersResult(accuracy, chosen)


def layer_inputs(layers: int) -> tuple[LayerInput, ...]:
    """The inputs of the grid: the last block and the last L, without and with patches."""
    return tuple(
        LayerInput(blocks, patches)
        for blocks in dict.fromkeys((1, layers))
        for patches in (False, True)
    )
