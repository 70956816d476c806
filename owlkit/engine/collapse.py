"""Whether self-supervised training still tells images apart, and an end to runs that do not.

Without labels a model can please the loss by saying the same of every image. Under DINO it does so
in two ways [0]: centering alone leads to the uniform distribution over prototypes, sharpening alone
to a single prototype. BYOL's outputs become one constant vector [1]. The loss does not show any of
it: it falls, or rests at the logarithm of K.

- [0]: Emerging Properties in Self-Supervised Vision Transformers, 2021,
  https://arxiv.org/abs/2104.14294, section 5.3
- [1]: Bootstrap Your Own Latent, 2020, https://arxiv.org/abs/2006.07733

Shapes: B images, G global crops and V crops of each, K prototypes, N rows, D width. Crops are
crop-major: crop 0 of all images, then crop 1.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from owlkit.errors import TrainingError

LEAST_INFORMATION = 0.01
"""What the output has to tell about the image, as a share of ln K, the most that it could. Two
equally large halves of the images that are told apart make up 6 % at K = 65,536."""

LEAST_SPREAD = 0.01
"""Smallest spread of vectors, where 1 is the most. Below it their mean cosine is above 0.9999."""

_SPREADS = ("feature_std", "projection_std")


@torch.no_grad()
def output_terms(
    teacher_probs: Tensor, student_logits: Tensor, *, temperature: float, global_crops: int
) -> dict[str, Tensor]:
    """What the teacher's outputs say, in nats; nothing waits for the device.

    Args:
        teacher_probs: Of the global crops [G * B, K], rows sum to 1.
        student_logits: Of all crops, global ones first [V * B, K].
        temperature: What the student's logits are divided by.
        global_crops: G.

    Returns:
        Scalars in float32: ``teacher_entropy``, the mean over rows, in [0, ln K];
        ``batch_entropy``, that of the mean row, which is above it by as much as the outputs tell
        about the image; ``student_kl``, the divergence of the student's output on one global crop
        from the teacher's on another one of that image, mean over such pairs (0 with one crop).
    """
    probs, size = teacher_probs.float(), len(teacher_probs)
    entropies = torch.special.entr(probs).sum(dim=-1)  # [G * B]
    logits = student_logits[:size].float() / temperature
    partitions = logits.logsumexp(dim=-1)
    images = size // global_crops
    # Shifted by one crop and more, every global crop meets every other one of its image.
    pairs = [
        (partitions - (probs.roll(images * shift, 0) * logits).sum(dim=-1)).mean()
        for shift in range(1, global_crops)
    ]
    entropy = entropies.mean()
    return {
        "teacher_entropy": entropy,
        "batch_entropy": torch.special.entr(probs.mean(dim=0)).sum(),
        "student_kl": torch.stack(pairs).mean() - entropy if pairs else torch.zeros_like(entropy),
    }


@torch.no_grad()
def feature_terms(features: Tensor) -> dict[str, Tensor]:
    """How far vectors of different images lie apart, whatever their lengths.

    Args:
        features: [N, D].

    Returns:
        Scalars in float32: ``feature_std``, see :func:`spread`; ``feature_rank``, in how many
        directions they vary: the participation ratio (sum of eigenvalues)^2 / (sum of their
        squares) of the covariance, in [1, min(N - 1, D)], 0 for vectors that are all the same.
    """
    with torch.autocast(features.device.type, enabled=False):
        directions = F.normalize(features.float(), dim=-1)
        centred = directions - directions.mean(dim=0)
        # Both products have the eigenvalues of the covariance that are not 0.
        gram = centred @ centred.mT if len(centred) < centred.shape[1] else centred.mT @ centred
        total, squares = gram.trace(), gram.square().sum()
    rank = total.square() / squares.clamp_min(torch.finfo(squares.dtype).tiny)
    return {"feature_std": spread(features), "feature_rank": rank}


@torch.no_grad()
def spread(vectors: Tensor) -> Tensor:
    """Standard deviation of directions: 0 where all are the same, 1 where they fill the sphere.

    The mean over dimensions of the L2-normalised vectors' deviation, times the root of D, as in
    SimSiam, 2020, https://arxiv.org/abs/2011.10566, section 4.1.

    Args:
        vectors: [N, D].

    Returns:
        Scalar in float32.
    """
    directions = F.normalize(vectors.float(), dim=-1)
    return directions.std(dim=0, correction=0).mean() * math.sqrt(vectors.shape[1])


class CollapseWatch:
    """Ends a run whose outputs no longer depend on the image.

    What they tell about it is ``batch_entropy - teacher_entropy``, the mutual information of image
    and prototype within a batch. That is 0 in both collapses of DINO and in any mixture of them,
    while neither entropy alone, nor the loss, tells a collapse from a confident or a hesitant
    teacher. Batches, or their parts, need two images or more.

    Args:
        out_dim: K; None where there are no prototypes and only the spread of vectors is judged.
        after: First step, counted from 1, that is judged: outputs of an untrained model hardly
            depend on the image.
    """

    def __init__(self, out_dim: int | None, after: int) -> None:
        self.out_dim = out_dim
        self.after = after

    def check(self, step: int, means: Mapping[str, float]) -> None:
        """Judges the means of the terms since they were last logged.

        Args:
            step: Steps taken.
            means: Of the terms of :func:`output_terms`, or of ``feature_std`` and
                ``projection_std`` where there are no prototypes; others are not looked at.

        Raises:
            TrainingError: If the model has collapsed; says in which way and what to change.
        """
        if step < self.after:
            return
        if self.out_dim is None:
            _check_spread(step, {name: means[name] for name in _SPREADS if name in means})
        else:
            _check_information(step, means, most=math.log(self.out_dim))


def _check_information(step: int, means: Mapping[str, float], *, most: float) -> None:
    entropy = means["teacher_entropy"]
    information = means["batch_entropy"] - entropy
    if information >= LEAST_INFORMATION * most:
        return
    if entropy > most / 2:
        way = "uniform over the prototypes"
        remedy = (
            "sharpen it: a lower teacher temperature (0.04 or less to begin with) or a slower rise "
            "of it; a batch norm in the head or another learning rate may help too"
        )
    else:
        way = "one-hot, the same prototype for all"
        remedy = (
            "balance it: centering with a lower center_momentum or sinkhorn_knopp, a higher "
            "teacher temperature, or a lower learning rate"
        )
    raise TrainingError(
        f"step {step}: the teacher has collapsed, its outputs do not depend on the image and are "
        f"{way}: expected them to tell at least {LEAST_INFORMATION * most:.3f} nats about it, "
        f"found {information:.3f} (entropy {entropy:.3f} of {most:.3f}). To go on, {remedy}."
    )


def _check_spread(step: int, spreads: Mapping[str, float]) -> None:
    for name, value in spreads.items():
        if value < LEAST_SPREAD:
            raise TrainingError(
                f"step {step}: the model has collapsed, its outputs are the same for all images: "
                f"expected {name} of at least {LEAST_SPREAD}, found {value:.4f}. To go on, a "
                "predictor and batch norms in both heads, larger batches, a target momentum nearer "
                "to 1 or a lower learning rate may help."
            )
