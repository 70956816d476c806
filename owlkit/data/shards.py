"""Training on tar shards, for data that is too large for a folder."""

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Any, Generic, TypeVar

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from owlkit.data.loader import BatchPlan, worker_options
from owlkit.data.pictures import (
    MOST_UNREADABLE,
    Picture,
    UnreadableImages,
    too_many_unreadable,
)
from owlkit.data.shard_order import ShardReader
from owlkit.data.shard_reading import Sample, decode_image, find_shards
from owlkit.errors import ConfigError, ImageError

# Keep the draws of one purpose apart from those of another.
_TURNS, _EXAMPLES = 3, 4

T = TypeVar("T")
Make = Callable[[Picture, int, np.random.Generator], T]
"""What makes an example of a picture, its number in the run, and what decides all draws."""


@dataclass(frozen=True)
class ShardSource:
    """A data set in shards.

    Attributes:
        urls: Paths, patterns and pipes, see :func:`owlkit.data.shard_reading.find_shards`.
        weight: Share of the examples, relative to other data sets; above 0.
    """

    urls: tuple[str, ...]
    weight: float = 1.0


class ShardStream(Generic[T]):
    """Examples from shards, without end.

    Each one comes from a data set drawn by the weights. A data set is read epoch by epoch: every
    example once, in a random order of the shards, mixed by a buffer of undecoded examples; see
    :mod:`owlkit.data.shard_order` for how several readers share it.

    What cannot be read is named in :attr:`Picture.corrupt` and logged once by each process. What
    has no image, or not the caption it needs, and the rest of a damaged shard are left out; an
    image that cannot be decoded is replaced by the next one that can, so that the examples before a
    step always come from equally many in the shards.

    Args:
        sources: At least one.
        make: Makes an example of a picture, for example :class:`owlkit.data.pairs.CaptionPairs` or
            :class:`owlkit.data.multi_crop.MultiCrop`. With workers, it must be possible to pickle
            it.
        captions: Whether examples need a caption; without, none is read.
        seed: Of order and examples.
        shuffle_buffer: Undecoded examples of each data set from which the next one is drawn, which
            every reader keeps in memory; 1 for none.

    Raises:
        ConfigError: If there is no source, or a weight or the buffer is not above 0.
        DatasetError: If shards are missing.
    """

    def __init__(
        self,
        sources: Sequence[ShardSource],
        make: Make[T],
        *,
        captions: bool = True,
        seed: int = 0,
        shuffle_buffer: int = 1000,
    ) -> None:
        if not sources or min(source.weight for source in sources) <= 0 or shuffle_buffer < 1:
            raise ConfigError(
                "shards: expected at least one data set, weights above 0 and a shuffle buffer of "
                f"at least 1; found weights {[source.weight for source in sources]} and a buffer "
                f"of {shuffle_buffer}"
            )
        self.shards = [find_shards(source.urls) for source in sources]
        self.make = make
        self.captions = captions
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        # Up to which random number in [0, 1) an example is from each source.
        limits = np.cumsum([source.weight for source in sources])
        self._limits: list[float] = (limits / limits[-1]).tolist()
        self._unreadable = UnreadableImages()

    def examples(
        self,
        reader: int = 0,
        readers: int = 1,
        *,
        skip: int = 0,
        numbers: Iterable[int] | None = None,
    ) -> Iterator[T]:
        """The examples of one reader, which are others than those of the other readers.

        Args:
            reader: Its number, from 0.
            readers: How many there are.
            skip: So many are left out at the beginning: each shard is read once at most for
                the epochs that are over, then the last epoch up to the place; nothing is decoded.
            numbers: Of the examples in the run, for ``make``; as many are made. None counts from
                ``skip``, without end.

        Raises:
            DatasetError: While iterating, if nothing can be read.
        """
        samples = self._samples(reader, readers, skip)
        coming: deque[Sample] = deque()
        for place, number in enumerate(count(skip) if numbers is None else numbers, skip):
            if not coming:
                coming.append(next(samples))
            generator = np.random.default_rng([self.seed, _EXAMPLES, reader, place])
            yield self.make(self._picture(coming, samples), number, generator)
            coming.popleft()

    def _samples(self, reader: int, readers: int, skip: int) -> Iterator[Sample]:
        """Undecoded examples of all sources, by their weights."""
        generator = np.random.default_rng([self.seed, _TURNS, reader])
        turns = (bisect_right(self._limits, generator.random()) for _ in count())
        done = Counter(islice(turns, skip))
        sources = [
            ShardReader(
                shards,
                seed=self.seed,
                number=number,
                reader=reader,
                readers=readers,
                shuffle_buffer=self.shuffle_buffer,
                captions=self.captions,
            ).samples(done[number])
            for number, shards in enumerate(self.shards)
        ]
        for source in turns:
            yield next(sources[source])

    def _picture(self, coming: deque[Sample], samples: Iterator[Sample]) -> Picture:
        """Decodes the first sample, or the first one after it that can be decoded."""
        corrupt = list(coming[0].faults)
        for ahead in range(MOST_UNREADABLE):
            if ahead == len(coming):
                coming.append(next(samples))
            sample = coming[ahead]
            try:
                image = decode_image(sample)
            except ImageError as error:
                corrupt.append(sample.where)
                self._unreadable.note(sample.where, error)
                continue
            return Picture(image, sample.where, sample.texts, tuple(corrupt))
        raise too_many_unreadable(corrupt[-1])


class _ShardBatches(IterableDataset[Any], Generic[T]):
    """The batches of one process, of which each worker makes those whose turn it has."""

    def __init__(
        self, stream: ShardStream[T], plan: BatchPlan, collate: Callable[[Sequence[T]], Any]
    ) -> None:
        self.stream = stream
        self.plan = plan
        self.collate = collate

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Any]:
        plan, info = self.plan, get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        done = plan.start_step * plan.accumulation
        # A loader takes its batches from its workers in turn, and begins with worker 0. After a
        # pause this must be the reader that would have been the next one.
        turn = (done + worker) % workers
        size = plan.batch_size // (plan.world_size * plan.accumulation)
        examples = self.stream.examples(
            plan.rank * workers + turn,
            plan.world_size * workers,
            skip=len(range(turn, done, workers)) * size,
            numbers=chain.from_iterable(islice(plan, worker, None, workers)),
        )
        for _ in range(worker, len(plan), workers):
            yield self.collate(list(islice(examples, size)))


def build_shard_loader(
    stream: ShardStream[T],
    plan: BatchPlan,
    *,
    collate: Callable[[Sequence[T]], Any],
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Makes the loader of one training process.

    The batches depend on the stream, the plan and, unlike those of
    :func:`owlkit.data.loader.build_loader`, on the numbers of processes and workers. With the same
    numbers, a run that starts at a later step gets what it would have got without the interruption,
    provided that commands (``pipe:``) give the same again. To find the place, each worker reads
    each shard once at most to count its examples, without decoding, then what it had of the last
    epoch. With workers, a script must start its work under ``if __name__ == "__main__":``.

    Args:
        stream: Makes the examples.
        plan: Numbers of steps, of processes and of examples in a batch; which pictures these show
            is up to the stream.
        collate: Joins examples to a batch, as for :func:`owlkit.data.loader.build_loader`.
        workers: Processes that make batches; 0 makes them in this one.
        pin_memory: Put batches into page-locked memory, for transfers to a GPU.

    Returns:
        A loader that yields one batch for each part of each step that is left.
    """
    batches = _ShardBatches(stream, plan, collate)
    return DataLoader(
        batches, batch_size=None, pin_memory=pin_memory, **worker_options(batches, workers)
    )
