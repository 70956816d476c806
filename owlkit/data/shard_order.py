"""In which order the examples of shards come, and which of the readers gets which.

A reader is one worker of one training process; there are ``readers`` of them. In each epoch the
shards are put into a new random order, which all readers know. As many of them as can be dealt out
evenly go whole to one reader each. The rest - all of them, where there are fewer shards than
readers - are read by every reader, who takes every ``readers``-th example. So no example is lost or
doubled in an epoch, and readers have equally many as far as shards are equally large; where they
are not, some readers begin their next epoch earlier than others.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice

import numpy as np

from owlkit.data.shard_reading import Fault, Sample, read_shard
from owlkit.errors import DatasetError

logger = logging.getLogger(__name__)

_MOST_FAULTS = 10_000
_MOST_EMPTY_PASSES = 100
# Keep the draws of one purpose apart from those of another.
_SHARDS, _SAMPLES = 1, 2


@dataclass(eq=False)
class ShardReader:
    """The undecoded examples of a data set that one reader gets, without end.

    Each call of :meth:`samples` begins anew; equal arguments give equal examples.

    Attributes:
        shards: Of the data set, at least one.
        seed: Of all draws.
        number: Of the data set, which draws otherwise than another one.
        reader: Number of this reader, from 0.
        readers: How many there are.
        shuffle_buffer: Examples from which the next one is drawn; 1 keeps their order.
        captions: Whether examples need a caption.
    """

    shards: Sequence[str]
    seed: int = 0
    number: int = 0
    reader: int = 0
    readers: int = 1
    shuffle_buffer: int = 1000
    captions: bool = True
    _readable: dict[int, bytes] = field(default_factory=dict, init=False)
    _faults: list[Fault] = field(default_factory=list, init=False)
    _reported: set[str] = field(default_factory=set, init=False)

    def samples(self, skip: int = 0) -> Iterator[Sample]:
        """Yields samples, each with the faults that were met since the one before.

        Args:
            skip: So many are left out at the beginning. To find the place, no shard is read more
                often than once before the epoch in which it lies: what is damaged in a shard, and
                so the number of its examples, is the same every time.

        Raises:
            DatasetError: If nothing can be read.
        """
        epoch, place = self._find(skip)
        return islice(self._from(epoch), place, None)

    def _find(self, place: int) -> tuple[int, int]:
        """The epoch that a sample is in, and how many of this epoch come before it.

        One that ends just before the sample counts as its epoch: its last faults are named with it.
        """
        epoch = 0
        while True:
            size = 0
            for shard, turn, of in self._shares(epoch):
                if size >= place:
                    break
                if shard not in self._readable:
                    found = self._read(shard)
                    self._readable[shard] = bytes(isinstance(one, Sample) for one in found)
                size += sum(self._readable[shard][turn::of])
            # What can be read somewhere is this reader's in the end; else epochs would have no end.
            if size >= place or not any(map(any, self._readable.values())):
                return epoch, place
            epoch, place = epoch + 1, place - size

    def _from(self, first: int) -> Iterator[Sample]:
        """All samples from an epoch on."""
        self._faults.clear()
        empty = 0
        for epoch in count(first):
            empty += 1
            for sample in self.epoch(epoch):
                yield replace(sample, faults=tuple(fault.where for fault in self._faults))
                self._faults.clear()
                empty = 0
            if empty > _MOST_EMPTY_PASSES * self.readers:
                raise self._nothing_found()

    def _nothing_found(self) -> DatasetError:
        found = "nothing in them"
        if self._faults:
            last = self._faults[-1]
            found = (
                f"{len(self._faults)} faults one after another, the last one {last.where}: "
                f"{last.reason}"
            )
        wanted = "images with captions" if self.captions else "images"
        return DatasetError(f"{self.shards[0]} and others: expected {wanted}, found {found}")

    def epoch(self, epoch: int) -> Iterator[Sample]:
        """Yields this reader's share of an epoch; all readers' shares are each example once.

        Args:
            epoch: Its number, from 0.
        """
        generator = np.random.default_rng([self.seed, _SAMPLES, self.number, self.reader, epoch])
        buffer: list[Sample] = []
        for sample in self._in_order(epoch):
            buffer.append(sample)
            if len(buffer) >= self.shuffle_buffer:
                yield _draw(buffer, generator)
        while buffer:
            yield _draw(buffer, generator)

    def _in_order(self, epoch: int) -> Iterator[Sample]:
        """This reader's share of an epoch, shard by shard."""
        for shard, turn, of in self._shares(epoch):
            for found in islice(self._read(shard), turn, None, of):
                if isinstance(found, Sample):
                    yield found
                else:
                    self._note(found)

    def _read(self, shard: int) -> Iterator[Sample | Fault]:
        return read_shard(self.shards[shard], captions=self.captions)

    def _shares(self, epoch: int) -> Iterator[tuple[int, int, int]]:
        """Shards and which of their examples: those whose number mod ``of`` is ``turn``."""
        order = self._order(epoch)
        whole = len(order) // self.readers * self.readers
        for shard in order[self.reader : whole : self.readers]:
            yield shard, 0, 1
        for shard in order[whole:]:
            # Not the same examples each epoch, so that even a shard that holds fewer than there
            # are readers has something for everybody in the end.
            yield shard, (self.reader + shard + epoch) % self.readers, self.readers

    def _order(self, epoch: int) -> list[int]:
        generator = np.random.default_rng([self.seed, _SHARDS, self.number, epoch])
        order: list[int] = generator.permutation(len(self.shards)).tolist()
        return order

    def _note(self, fault: Fault) -> None:
        if fault.where not in self._reported:
            self._reported.add(fault.where)
            logger.warning("left out what cannot be read: %s: %s", fault.where, fault.reason)
        self._faults.append(fault)
        if len(self._faults) > _MOST_FAULTS:
            raise self._nothing_found()


def _draw(buffer: list[Sample], generator: np.random.Generator) -> Sample:
    """Takes one sample out; its place is filled by the last one."""
    place = int(generator.integers(len(buffer)))
    buffer[place], buffer[-1] = buffer[-1], buffer[place]
    return buffer.pop()
