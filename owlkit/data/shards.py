"""Training on image-text pairs in tar shards, for data that is too large for a folder.

Shapes: B pairs, S side of the model input in pixels.
"""

import logging
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from owlkit.data.augmentation import Augmentation
from owlkit.data.loader import BatchPlan, worker_options
from owlkit.data.pair_sources import caption_identity
from owlkit.data.pairs import MOST_UNREADABLE, Pair, PairAugmentation, collate_pairs
from owlkit.data.shard_order import ShardReader
from owlkit.data.shard_reading import Sample, decode_image, find_shards
from owlkit.data.views import ViewAugmentation
from owlkit.errors import ConfigError, DatasetError, ImageError
from owlkit.structures import PairBatch

logger = logging.getLogger(__name__)

# Keep the draws of one purpose apart from those of another.
_TURNS, _PAIRS = 3, 4


@dataclass(frozen=True)
class ShardSource:
    """A data set in shards.

    Attributes:
        urls: Paths, patterns and pipes, see :func:`owlkit.data.shard_reading.find_shards`.
        weight: Share of the pairs, relative to other data sets; above 0.
    """

    urls: tuple[str, ...]
    weight: float = 1.0


class ShardStream:
    """Pairs from shards, without end.

    Each pair comes from a data set drawn by the weights. A data set is read epoch by epoch: every
    example once, in a random order of the shards, mixed by a buffer of undecoded examples; see
    :mod:`owlkit.data.shard_order` for how several readers share it.

    What cannot be read is named in :attr:`Pair.corrupt` and logged once by each process. Examples
    without an image or a caption and the rest of a damaged shard are left out; an image that cannot
    be decoded is replaced by the next one that can, so that the pairs before a step are always
    equally many examples.

    Args:
        sources: At least one.
        augmentation: What happens to an image.
        size: Side of the result in pixels.
        seed: Of order, texts and augmentation.
        shuffle_buffer: Undecoded examples of each data set from which the next one is drawn, which
            every reader keeps in memory; 1 for none.
        views: Makes two strong views of each image; None for none.

    Raises:
        ConfigError: If there is no source, or a weight or the buffer is not above 0.
        DatasetError: If shards are missing.
    """

    def __init__(
        self,
        sources: Sequence[ShardSource],
        augmentation: Augmentation,
        *,
        size: int,
        seed: int = 0,
        shuffle_buffer: int = 1000,
        views: ViewAugmentation | None = None,
    ) -> None:
        if not sources or min(source.weight for source in sources) <= 0 or shuffle_buffer < 1:
            raise ConfigError(
                "shards: expected at least one data set, weights above 0 and a shuffle buffer of "
                f"at least 1; found weights {[source.weight for source in sources]} and a buffer "
                f"of {shuffle_buffer}"
            )
        self.shards = [find_shards(source.urls) for source in sources]
        self.augmentation = PairAugmentation(augmentation, size, views)
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        # Up to which random number in [0, 1) a pair is from each source.
        limits = np.cumsum([source.weight for source in sources])
        self._limits: list[float] = (limits / limits[-1]).tolist()
        self._reported: set[str] = set()

    def pairs(self, reader: int = 0, readers: int = 1, *, skip: int = 0) -> Iterator[Pair]:
        """The pairs of one reader, which are others than those of the other readers.

        Args:
            reader: Its number, from 0.
            readers: How many there are.
            skip: So many pairs are left out at the beginning: each shard is read once at most for
                the epochs that are over, then the last epoch up to the place; nothing is decoded.

        Raises:
            DatasetError: While iterating, if nothing can be read.
        """
        samples = self._samples(reader, readers, skip)
        coming: deque[Sample] = deque()
        for number in count(skip):
            if not coming:
                coming.append(next(samples))
            generator = np.random.default_rng([self.seed, _PAIRS, reader, number])
            yield self._pair(coming, samples, generator)
            coming.popleft()

    def _samples(self, reader: int, readers: int, skip: int) -> Iterator[Sample]:
        """Undecoded examples of all sources, by their weights."""
        generator = np.random.default_rng([self.seed, _TURNS, reader])
        turns = (bisect_right(self._limits, generator.random()) for _ in count())
        done = Counter(islice(turns, skip))
        sources = [
            ShardReader(shards, self.seed, number, reader, readers, self.shuffle_buffer).samples(
                done[number]
            )
            for number, shards in enumerate(self.shards)
        ]
        for source in turns:
            yield next(sources[source])

    def _pair(
        self, coming: deque[Sample], samples: Iterator[Sample], generator: np.random.Generator
    ) -> Pair:
        """Makes a pair of the first sample, or of the first one after it that can be decoded."""
        corrupt = list(coming[0].faults)
        for ahead in range(MOST_UNREADABLE):
            if ahead == len(coming):
                coming.append(next(samples))
            sample = coming[ahead]
            try:
                picture = decode_image(sample)
            except ImageError as error:
                corrupt.append(sample.where)
                self._report(sample, error)
                continue
            text = sample.texts[generator.integers(len(sample.texts))]
            image, views = self.augmentation(picture, text, generator)
            identity = caption_identity(text)
            return Pair(image, text, identity, sample.where, tuple(corrupt), views)
        raise DatasetError(
            f"expected images that can be read; found {MOST_UNREADABLE} one after another that "
            f"cannot, the last one {corrupt[-1]}"
        )

    def _report(self, sample: Sample, error: ImageError) -> None:
        if sample.where not in self._reported:
            self._reported.add(sample.where)
            logger.warning("replaced an image that cannot be read: %s", error)


class _ShardBatches(IterableDataset[PairBatch]):
    """The batches of one process, of which each worker makes those whose turn it has."""

    def __init__(self, stream: ShardStream, plan: BatchPlan) -> None:
        self.stream = stream
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[PairBatch]:
        plan, info = self.plan, get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        done = plan.start_step * plan.accumulation
        # A loader takes its batches from its workers in turn, and begins with worker 0. After a
        # pause this must be the reader that would have been the next one.
        turn = (done + worker) % workers
        size = plan.batch_size // (plan.world_size * plan.accumulation)
        pairs = self.stream.pairs(
            plan.rank * workers + turn,
            plan.world_size * workers,
            skip=len(range(turn, done, workers)) * size,
        )
        for _ in range(worker, len(plan), workers):
            yield collate_pairs(list(islice(pairs, size)))


def build_shard_loader(
    stream: ShardStream, plan: BatchPlan, *, workers: int = 0, pin_memory: bool = False
) -> DataLoader[PairBatch]:
    """Makes the loader of one training process.

    The batches depend on the stream, the plan and, unlike those of
    :func:`owlkit.data.loader.build_loader`, on the numbers of processes and workers. With the same
    numbers, a run that starts at a later step gets what it would have got without the interruption,
    provided that commands (``pipe:``) give the same again. To find the place, each worker reads
    each shard once at most to count its examples, without decoding, then what it had of the last
    epoch. With workers, a script must start its work under ``if __name__ == "__main__":``.

    Args:
        stream: Makes the pairs.
        plan: Numbers of steps, of processes and of pairs in a batch; which pairs these are is up
            to the stream.
        workers: Processes that make batches; 0 makes them in this one.
        pin_memory: Put batches into page-locked memory, for transfers to a GPU.

    Returns:
        A loader that yields one batch for each part of each step that is left.
    """
    batches = _ShardBatches(stream, plan)
    return DataLoader(
        batches, batch_size=None, pin_memory=pin_memory, **worker_options(batches, workers)
    )
