"""Pictures that data sets give, and what becomes of those that cannot be read.

Shapes: B examples, H and W the size of a picture in pixels.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from owlkit.errors import DatasetError, ImageError

logger = logging.getLogger(__name__)

MOST_UNREADABLE = 100
"""So many unreadable files one after another are no accident."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as it was read.

    Attributes:
        image: RGB, uint8 [H, W, 3].
        source: Where it comes from.
        texts: What may be said about it.
        corrupt: What could not be read and was replaced by this.
    """

    image: NDArray[np.uint8]
    source: str
    texts: tuple[str, ...] = ()
    corrupt: tuple[str, ...] = ()


class UnreadableImages:
    """Puts other images in the place of those that cannot be read; logs each once a process."""

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def replace(
        self,
        number: int,
        read: Callable[[int], NDArray[np.uint8]],
        where: Callable[[int], str],
        *,
        count: int,
        generator: np.random.Generator,
    ) -> tuple[int, NDArray[np.uint8], tuple[str, ...]]:
        """Reads an image, or random other ones until one can be read.

        Args:
            number: Of the image, in [0, count).
            read: Gives the image of a number, or raises ImageError.
            where: Says where it is.
            count: How many images there are.
            generator: Draws the others.

        Returns:
            The number of the image that was read; it, RGB, uint8 [H, W, 3]; and the places of those
            that could not be read.

        Raises:
            DatasetError: A hundred images, one after another, cannot be read.
        """
        corrupt: list[str] = []
        while len(corrupt) < MOST_UNREADABLE:
            try:
                return number, read(number), tuple(corrupt)
            except ImageError as error:
                corrupt.append(where(number))
                self.note(corrupt[-1], error)
                number = int(generator.integers(count))
        raise too_many_unreadable(corrupt[-1])

    def note(self, where: str, error: ImageError) -> None:
        """Logs an image that cannot be read, unless that was done."""
        if where not in self._reported:
            self._reported.add(where)
            logger.warning("replaced an image that cannot be read: %s", error)


def too_many_unreadable(last: str) -> DatasetError:
    """The error to raise after :data:`MOST_UNREADABLE` of them.

    Args:
        last: Where the last one is.
    """
    return DatasetError(
        f"expected images that can be read; found {MOST_UNREADABLE} one after another that "
        f"cannot, the last one {last}"
    )


def channels_first(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """[..., H, W, 3] of each example becomes [B, ..., 3, H, W].

    The result is a view: laying the channels out first costs less on the device than in the loader.
    """
    return torch.from_numpy(np.stack(pictures)).movedim(-1, -3)
