"""A query set as the vectors that are multiplied with patches.

Shapes: P patches, Q classes, V prototypes of all classes, N negatives, E embedding width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from owlkit.postprocess import MASKED_LOGIT

Score = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class CompiledQueries:
    """Vectors of all classes and their negatives, ready for a dot product with patches.

    Attributes:
        prototypes: Of the first class, of the second, and so on [V, E].
        starts: First prototype of each class [Q].
        negatives: Vectors that compete with classes [N, E].
        rivals: The class that each negative competes with, -1 for all of them [N].
    """

    prototypes: NDArray[np.float32] = field(repr=False)
    starts: NDArray[np.int64] = field(repr=False)
    negatives: NDArray[np.float32] = field(repr=False)
    rivals: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(
        cls,
        prototypes: Sequence[NDArray[np.float32]],
        negatives: Sequence[NDArray[np.float32]],
        background: NDArray[np.float32],
    ) -> "CompiledQueries":
        """Puts the vectors of the classes one behind another.

        Args:
            prototypes: Of each class [K, E], K at least 1.
            negatives: Of each class [K, E].
            background: Of texts that compete with all classes [K, E].
        """
        counts = [len(rows) for rows in prototypes]
        rivals = np.repeat(np.arange(len(negatives)), [len(rows) for rows in negatives])
        return cls(
            prototypes=np.concatenate(prototypes),
            starts=np.cumsum([0, *counts[:-1]]),
            negatives=np.concatenate([*negatives, background]),
            rivals=np.concatenate([rivals, np.full(len(background), -1)]),
        )

    def of_classes(self, rows: Sequence[int]) -> "CompiledQueries":
        """The vectors of some of the classes, and all background."""
        ends = [*self.starts[1:].tolist(), len(self.prototypes)]
        return CompiledQueries.of(
            [self.prototypes[self.starts[row] : ends[row]] for row in rows],
            [self.negatives[self.rivals == row] for row in rows],
            self.negatives[self.rivals < 0],
        )

    def logits(self, score: Score) -> NDArray[np.float32]:
        """Logits of the classes on the patches of one image [P, Q].

        A class has the largest logit of its prototypes; a pair that a negative answers at least as
        well gets :data:`owlkit.postprocess.MASKED_LOGIT`, which no threshold lets through. What
        stays is not changed by the negatives.

        Args:
            score: Gives the logits [P, K] of vectors [K, E], in an array of its own.
        """
        logits = score(self.prototypes)
        if len(self.starts) < len(self.prototypes):
            logits = np.maximum.reduceat(logits, self.starts, axis=1)
        if len(self.negatives):
            against = score(self.negatives)
            for rival in np.unique(self.rivals):
                best = against[:, self.rivals == rival].max(axis=1, keepdims=True)
                columns = logits if rival < 0 else logits[:, rival, None]
                np.copyto(columns, MASKED_LOGIT, where=columns <= best)
        return logits
