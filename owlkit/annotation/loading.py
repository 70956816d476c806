"""Images of a job, read while the model works on others."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import ImageError
from owlkit.file_stamp import Stamp, file_stamp
from owlkit.images import load_image

# Groups of images that are read while the model works on another one.
_READ_AHEAD = 2


@dataclass(frozen=True)
class Group:
    """Images that go through the model together.

    Attributes:
        images: Paths by name.
        wanted: Names of those that have no results yet. The others are detected in once more,
            because results of a batch depend, in their last bits, on what else is in it.
    """

    images: Mapping[str, Path]
    wanted: frozenset[str]


Loaded = tuple[Stamp | None, NDArray[np.uint8] | str]


def _load(group: Group) -> list[Loaded]:
    """Stamp and pixels of each image, or what is wrong with it."""
    return [_load_one(path) for path in group.images.values()]


def _load_one(path: Path) -> Loaded:
    # Before the pixels: a change in between makes the image one to be done again.
    stamp = file_stamp(path)
    try:
        return stamp, load_image(path)
    except ImageError as error:
        return stamp, str(error).removeprefix(f"{path}: ")


def read_ahead(groups: Sequence[Group]) -> Iterator[tuple[Group, list[Loaded]]]:
    """Reads groups in a thread, a few before they are asked for."""
    waiting: deque[tuple[Group, Future[list[Loaded]]]] = deque()
    pool = ThreadPoolExecutor(1)
    try:
        for group in groups:
            waiting.append((group, pool.submit(_load, group)))
            if len(waiting) > _READ_AHEAD:
                first, loaded = waiting.popleft()
                yield first, loaded.result()
        for group, loaded in waiting:
            yield group, loaded.result()
    finally:
        pool.shutdown(cancel_futures=True)
