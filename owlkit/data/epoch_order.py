"""The order in which an endless stream visits things: each once an epoch, every epoch anew."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class EpochOrder:
    """Which thing stands at each place of an endless stream.

    Args:
        count: How many things there are, at least 1.
        seed: Numbers that decide the orders, with that of the epoch.
    """

    def __init__(self, count: int, seed: Sequence[int]) -> None:
        self.count = count
        self.seed = tuple(seed)
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __getitem__(self, place: int) -> int:
        """The number of the thing at a place of 0 or more; neighbouring places are quick."""
        epoch, position = divmod(place, self.count)
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng([*self.seed, epoch])
            self._order = (epoch, generator.permutation(self.count))
        return int(self._order[1][position])
