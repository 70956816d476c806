"""How the texts and examples of a class become the vectors that stand for it."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import QueryError

Rule = Literal["mean", "max", "kmeans"]

_ROUNDS = 50


@dataclass(frozen=True)
class Combination:
    """How a class of several examples, or of texts and examples, is asked for.

    With the text t (a mean of unit vectors) and the unit vectors of the examples, the class stands
    for one or more prototypes ``text_weight * t + (1 - text_weight) * x``; its logit on a patch is
    the largest of theirs. The logit of such a mixture is the weighted mean of the logits.

    Attributes:
        rule: What x is. ``mean``: the direction of the mean of the examples, as published [0].
            ``max``: each example, one prototype each. ``kmeans``: the directions of the centres of
            ``prototypes`` clusters of the examples (spherical k-means [1]), for classes that look
            different from different sides.
        prototypes: Clusters of ``kmeans``, at least 1; fewer examples make fewer.
        text_weight: Share of the text in a class that has both, in [0, 1]. Examples are nearer to
            patches than texts are, so a share of 0.5 is no equal say.

    - [0]: Simple Open-Vocabulary Object Detection, 2022, https://arxiv.org/abs/2205.06230
    - [1]: Concept Decompositions for Large Sparse Text Data Using Clustering, Dhillon and Modha,
      2001, https://doi.org/10.1023/A:1007612920971

    Raises:
        QueryError: If a value is out of its range.
    """

    rule: Rule = "mean"
    prototypes: int = 3
    text_weight: float = 0.5

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise QueryError(f"rule: expected one of {get_args(Rule)}, found {self.rule!r}")
        if type(self.prototypes) is not int or self.prototypes < 1:
            raise QueryError(
                f"prototypes: expected an integer of at least 1, found {self.prototypes!r}"
            )
        if not isinstance(self.text_weight, int | float) or not 0 <= self.text_weight <= 1:
            raise QueryError(
                f"text_weight: expected a number in [0, 1], found {self.text_weight!r}"
            )

    def prototypes_of(
        self, text: NDArray[np.float32] | None, examples: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The vectors of one class [K, E].

        Args:
            text: Mean of the unit vectors of its prompts [E], or None.
            examples: Unit vectors [N, E]; N may be 0 if there is a text.
        """
        if not len(examples):
            assert text is not None
            return text[None]
        if self.rule == "mean":
            centres = directions(examples.mean(axis=0, keepdims=True))
        elif self.rule == "kmeans":
            centres = spherical_kmeans(examples, self.prototypes)
        else:
            centres = examples
        if text is None:
            return centres
        return self.mixed(text, centres)

    def mixed(self, text: NDArray[np.float32], example: NDArray[np.float32]) -> NDArray[np.float32]:
        """The vector of a text and an example together [..., E]."""
        weight = np.float32(self.text_weight)
        both: NDArray[np.float32] = weight * text + (1 - weight) * example
        return both


def directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit vectors [..., E]; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


def spherical_kmeans(units: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Directions of the centres of clusters of unit vectors, by cosine similarity.

    Starts from vectors far from each other, so that the same vectors give the same centres.

    Args:
        units: [N, E], at least one.
        count: Of clusters; at most as many as there are different vectors.

    Returns:
        Unit vectors [K, E], K <= count.
    """
    centres = units[:1]
    while len(centres) < count:
        nearest = (units @ centres.T).max(axis=1)
        farthest = int(nearest.argmin())
        if nearest[farthest] > 1 - 1e-6:
            break
        centres = np.concatenate([centres, units[farthest, None]])
    members = np.full(len(units), -1)
    for _ in range(_ROUNDS):
        found = (units @ centres.T).argmax(axis=1)
        if (found == members).all():
            break
        members = found
        # A centre that lost all its members stays where it is.
        centres = np.stack(
            [
                directions(units[members == row].mean(axis=0)) if (members == row).any() else centre
                for row, centre in enumerate(centres)
            ]
        )
    return centres
