"""A query set as the vectors that are multiplied with patches.

Shapes: P patches, Q classes, V prototypes of all classes, N negatives, E embedding width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from owlkit.postprocess import MASKED_LOGIT

# Scored together in any case, since each product has a cost of its own.
_FEW_VECTORS = 256

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
        pieces = self._largest(score, self.prototypes, self.starts)
        rows, logits = next(pieces)
        if len(rows) < len(self.starts):
            first, logits = logits, np.empty((len(logits), len(self.starts)), dtype=np.float32)
            logits[:, rows] = first
        for rows, best in pieces:
            logits[:, rows] = best
        changes = np.flatnonzero(np.diff(self.rivals, prepend=-2))
        for rows, best in self._largest(score, self.negatives, changes):
            for rival, against in zip(self.rivals[changes[rows]], best.T, strict=True):
                columns = logits if rival < 0 else logits[:, rival, None]
                np.copyto(columns, MASKED_LOGIT, where=columns <= against[:, None])
        return logits

    def _largest(
        self, score: Score, vectors: NDArray[np.float32], starts: NDArray[np.int64]
    ) -> Iterator[tuple[range, NDArray[np.float32]]]:
        """The largest logit of each group of vectors: some groups, and theirs [P, groups].

        As many at a time as make no more logits than there are classes, or few in any case.
        """
        most = max(len(self.starts), _FEW_VECTORS)
        ends = np.append(starts[1:], len(vectors))
        first = 0
        while first < len(starts):
            low = starts[first]
            last = max(first + 1, int(np.searchsorted(ends, low + most, side="right")))
            found = score(vectors[low : ends[last - 1]])
            if found.shape[1] > last - first:
                found = np.maximum.reduceat(found, starts[first:last] - low, axis=1)
            yield range(first, last), found
            first = last
