"""Image records in a few arrays, for the processes that read pictures.

Each worker of a loader gets a copy of all records. As 118,000 objects, COCO takes 15 seconds of
pickling for each of them; packed, a fraction of one.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from owlkit.data.coco import ImageRecord


class PackedRecords(Sequence[ImageRecord]):
    """A sequence of records that makes each one when it is asked for.

    Args:
        records: What to pack; at least one.
    """

    def __init__(self, records: Sequence[ImageRecord]) -> None:
        self._paths = [str(record.path) for record in records]
        self._sizes = np.array([(record.id, record.width, record.height) for record in records])
        self._boxes = np.concatenate([record.boxes for record in records])
        self._labels = _Ragged(record.labels for record in records)
        self._absent = _Ragged(record.absent for record in records)
        self._unknown = _Ragged(record.unknown for record in records)

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageRecord]: ...
    def __getitem__(self, index: int | slice) -> ImageRecord | list[ImageRecord]:
        """One record, or a list of them."""
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        number, width, height = self._sizes[row].tolist()
        return ImageRecord(
            id=number,
            path=Path(self._paths[row]),
            width=width,
            height=height,
            boxes=self._boxes[self._labels.part(row)],
            labels=self._labels[row],
            absent=tuple(self._absent[row].tolist()),
            unknown=tuple(self._unknown[row].tolist()),
        )


class _Ragged:
    """Lists of integers of different lengths, one after another."""

    def __init__(self, lists: Iterable[Sequence[int] | NDArray[np.int64]]) -> None:
        parts = [np.asarray(one, dtype=np.int64) for one in lists]
        self._ends = np.cumsum([0, *map(len, parts)])
        self._values = np.concatenate(parts)

    def part(self, row: int) -> slice:
        """Where the list is."""
        start, end = self._ends[row : row + 2].tolist()
        return slice(start, end)

    def __getitem__(self, row: int) -> NDArray[np.int64]:
        values: NDArray[np.int64] = self._values[self.part(row)]
        return values
