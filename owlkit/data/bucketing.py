"""Batches whose captions are about equally long, so that less padding is computed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from owlkit.data.loader import BatchPlan


@dataclass(frozen=True)
class BucketedPlan:
    """A plan whose batches are sorted by length within windows of consecutive batches.

    The examples of a window are those of the plan it is made of, and its batches come in random
    order, so that training sees the same examples and no trend from short to long. Step and seed
    decide everything: a run that resumes goes on with the same batches.

    Attributes:
        plan: Says which examples there are.
        length_of: Length of an example, in any unit.
        window: Batches that are sorted together, at least 1.
        seed: Of the order of the batches.
    """

    plan: BatchPlan
    length_of: Callable[[int], int]
    window: int
    seed: int = 0

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[int]]:
        plan = self.plan
        share = plan.batch_size // plan.world_size
        size = share // plan.accumulation
        number, batches = -1, np.zeros((0, 0), dtype=np.int64)
        for step in range(plan.start_step, plan.total_steps):
            if step // self.window != number:
                number = step // self.window
                batches = self._window(number)
            own = batches[step % self.window][plan.rank * share : (plan.rank + 1) * share]
            for start in range(0, share, size):
                yield own[start : start + size].tolist()

    def _window(self, number: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """The examples of a window, a row for each batch."""
        count = self.window * self.plan.batch_size
        examples = np.arange(number * count, (number + 1) * count)
        lengths = [self.length_of(example) for example in examples.tolist()]
        rows = examples[np.argsort(lengths, kind="stable")].reshape(self.window, -1)
        order = np.random.default_rng([self.seed, number]).permutation(self.window)
        return rows[order]
