"""Requests that come while the image tower is busy share its next pass."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from owlkit.predictor import Predictor
from owlkit.scene import Scene


@dataclass(eq=False)
class _Batch:
    images: list[NDArray[np.uint8]] = field(default_factory=list)
    task: "asyncio.Task[list[Scene]] | None" = None


class Batcher:
    """Encodes images of concurrent requests together, whatever each of them asks for.

    Nobody waits for a batch to fill: one pass runs at a time, and what arrives meanwhile makes up
    the next one. Belongs to one event loop.

    Args:
        predictor: Its ``batch_size`` is the most images of a pass.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._filling: _Batch | None = None
        self._turn = asyncio.Lock()

    async def encode(self, image: NDArray[np.uint8]) -> Scene:
        """Encodes an image uint8 [h, w, 3] in a pass with others.

        Raises:
            OwlkitError: If the pass fails, for all of them.
        """
        batch = self._filling
        if batch is None or len(batch.images) >= self._predictor.batch_size:
            batch = self._filling = _Batch()
            batch.task = asyncio.create_task(self._run(batch))
        assert batch.task is not None
        row = len(batch.images)
        batch.images.append(image)
        # A request that is given up must not take the others of its pass with it.
        return (await asyncio.shield(batch.task))[row]

    async def _run(self, batch: _Batch) -> list[Scene]:
        async with self._turn:
            if self._filling is batch:
                self._filling = None
            return await asyncio.to_thread(self._predictor.encode, tuple(batch.images))
