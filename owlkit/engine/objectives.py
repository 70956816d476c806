"""What a contrastive task minimises: how images and texts of a batch are compared.

Shapes: B pairs, E embedding width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from owlkit.losses import clip_loss, siglip_loss, triplet_loss
from owlkit.models import DualEncoder


@dataclass(frozen=True)
class Objective:
    """A loss on the two sides of a batch; call it with their embeddings.

    Attributes:
        name: Under which its value is logged.
        compare: Takes images [B, E] and texts [B, E], both L2-normalised, the model that made them,
            and the pairs' identities, int64 [B]; returns a scalar.
        scaled: Whether it learns the model's ``logit_scale``.
        biased: Whether it learns the model's ``logit_bias``.
    """

    name: str
    compare: Callable[[Tensor, Tensor, DualEncoder, Tensor], Tensor]
    scaled: bool = True
    biased: bool = False

    def __call__(
        self, images: Tensor, texts: Tensor, model: DualEncoder, identities: Tensor
    ) -> Tensor:
        """The loss of a batch, a scalar."""
        return self.compare(images, texts, model, identities)


def clip_objective() -> Objective:
    """Cross-entropy over the pairs of a batch; see :func:`~owlkit.losses.clip_loss`."""

    def compare(images: Tensor, texts: Tensor, model: DualEncoder, identities: Tensor) -> Tensor:
        return clip_loss(images, texts, model.logit_scale.exp(), identities=identities)

    return Objective("clip", compare)


def siglip_objective(chunk_size: int = 256) -> Objective:
    """One yes or no per pair; see :func:`~owlkit.losses.siglip_loss`.

    Args:
        chunk_size: Texts that are compared with all images at a time; bounds the memory.
    """

    def compare(images: Tensor, texts: Tensor, model: DualEncoder, identities: Tensor) -> Tensor:
        assert model.logit_bias is not None  # the task has made sure of it
        return siglip_loss(
            images,
            texts,
            model.logit_scale.exp(),
            model.logit_bias,
            identities=identities,
            chunk_size=chunk_size,
        )

    return Objective("siglip", compare, biased=True)


def triplet_objective(
    margin: float = 0.2, mining: Literal["hard", "semi_hard", "all"] = "hard"
) -> Objective:
    """Positives nearer than negatives by a margin; see :func:`~owlkit.losses.triplet_loss`.

    Args:
        margin: Difference of cosines that is enough, in [0, 2].
        mining: Which negatives count.
    """

    def compare(images: Tensor, texts: Tensor, model: DualEncoder, identities: Tensor) -> Tensor:
        return triplet_loss(images, texts, margin=margin, mining=mining, identities=identities)

    return Objective("triplet", compare, scaled=False)
