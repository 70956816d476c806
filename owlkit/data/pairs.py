"""Images with captions, for contrastive pretraining.

A captions file has one JSON object a line: ``file``, ``captions`` (a list of texts) and, where
look-alikes are to meet in a batch, ``group``.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from owlkit.data.augmentation import Augmentation, may_flip
from owlkit.data.reading import read_rgb
from owlkit.errors import ConfigError, DatasetError, ImageError
from owlkit.structures import PairBatch

logger = logging.getLogger(__name__)

_MOST_UNREADABLE = 100
"""So many unreadable files one after another are no accident."""

_NO_BOXES = np.zeros((0, 4), dtype=np.float32)
_NO_LABELS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class CaptionedImage:
    """One line of a captions file.

    Attributes:
        path: The image.
        captions: Its texts, at least one.
        group: What it shares with its look-alikes; None if the file does not say.
    """

    path: Path
    captions: tuple[str, ...]
    group: str | None


@dataclass(frozen=True)
class Pair:
    """One training example: an image uint8 [h, w, 3], a caption, and where they come from."""

    image: NDArray[np.uint8]
    text: str
    source: str
    corrupt: tuple[str, ...] = ()


def read_captioned_images(captions: Path, images: Path) -> tuple[CaptionedImage, ...]:
    """Reads a captions file.

    Args:
        captions: JSON lines.
        images: Folder that ``file`` is relative to.

    Raises:
        DatasetError: If a file is missing or a line does not fit; says which.
    """
    if not captions.is_file():
        raise DatasetError(
            f"{captions}: no such file; data.captions expects JSON lines with `file` and `captions`"
        )
    lines = captions.read_text(encoding="utf-8").splitlines()
    records = tuple(
        _parse(line, images, where=f"{captions}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )
    if not records:
        raise DatasetError(f"{captions}: expected one JSON object a line, found none")
    missing = [record.path for record in records if not record.path.is_file()]
    if missing:
        raise DatasetError(
            f"{captions}: {len(missing)} of {len(records)} images are missing, first {missing[0]}"
        )
    return records


def _parse(line: str, images: Path, *, where: str) -> CaptionedImage:
    try:
        record: Any = json.loads(line)
        file, captions, group = record["file"], record["captions"], record.get("group")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{where}: expected `file` and `captions`, found {line[:80]!r}"
        ) from error
    is_list = isinstance(captions, list) and captions
    if not isinstance(file, str) or not is_list or not all(isinstance(c, str) for c in captions):
        raise DatasetError(f"{where}: expected `file` as text and `captions` as a list of texts")
    return CaptionedImage(images / file, tuple(captions), None if group is None else str(group))


class CaptionExamples(Dataset[Pair]):
    """An endless stream of pairs; pair number i depends on the seed and i alone.

    Every epoch visits each image once, or, with groups, each group once: ``group_size``
    neighbouring examples come from one group.

    A file that cannot be read is replaced by a random image, named in :attr:`Pair.corrupt`, and
    logged once by each process.

    Args:
        images: What to draw from.
        augmentation: What happens to an image.
        size: Side of the result in pixels.
        group_size: Length of a run of look-alikes; 1 ignores the groups.
        seed: Of order, captions and augmentation.

    Raises:
        ConfigError: If there are runs to be made and a group is too small or missing.
    """

    def __init__(
        self,
        images: Sequence[CaptionedImage],
        augmentation: Augmentation,
        *,
        size: int,
        group_size: int = 1,
        seed: int = 0,
    ) -> None:
        self.images = tuple(images)
        self.augmentation = augmentation
        self.size = size
        self.group_size = group_size
        self.seed = seed
        self.groups = _groups(self.images, group_size)
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._reported: set[Path] = set()

    def __getitem__(self, index: int) -> Pair:
        """Returns example ``index``, 0 or more.

        Raises:
            DatasetError: A hundred images, one after another, cannot be read.
        """
        run, slot = divmod(index, self.group_size)
        epoch, position = divmod(run, len(self.groups))
        group = self.groups[self._order_of(epoch)[position]]
        members = np.random.default_rng([self.seed, 1, run]).permutation(len(group))
        generator = np.random.default_rng([self.seed, 2, index])
        corrupt: list[str] = []
        record, image = self._read(group[members[slot]], generator, corrupt)
        text = record.captions[generator.integers(len(record.captions))]
        tile = self.augmentation(
            image,
            _NO_BOXES,
            _NO_LABELS,
            size=self.size,
            may_flip=may_flip([text]),
            seed=int(generator.integers(2**31)),
        )
        return Pair(tile.image, text, str(record.path), tuple(corrupt))

    def _read(
        self, number: int, generator: np.random.Generator, corrupt: list[str]
    ) -> tuple[CaptionedImage, NDArray[np.uint8]]:
        """An image, or another one where it cannot be read; appends what cannot to ``corrupt``."""
        for _ in range(_MOST_UNREADABLE):
            record = self.images[number]
            try:
                return record, read_rgb(record.path)
            except ImageError as error:
                if record.path not in self._reported:
                    self._reported.add(record.path)
                    logger.warning("replaced an image that cannot be read: %s", error)
                corrupt.append(str(record.path))
                number = int(generator.integers(len(self.images)))
        raise DatasetError(
            f"expected images that can be read; found {_MOST_UNREADABLE} one after another that "
            f"cannot, the last one {corrupt[-1]}"
        )

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        """The order of the groups in an epoch; the last one asked for is kept."""
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng([self.seed, 0, epoch])
            self._order = (epoch, generator.permutation(len(self.groups)))
        return self._order[1]


def _groups(images: Sequence[CaptionedImage], group_size: int) -> list[list[int]]:
    if group_size == 1:
        return [[index] for index in range(len(images))]
    members: dict[str, list[int]] = {}
    for index, image in enumerate(images):
        if image.group is None:
            raise ConfigError(
                f"group_size {group_size} needs a group for every image; {image.path} has none"
            )
        members.setdefault(image.group, []).append(index)
    for group, indices in members.items():
        if len(indices) < group_size:
            raise ConfigError(
                f"group_size is {group_size}, but group {group!r} has {len(indices)} images"
            )
    return list(members.values())


def collate_pairs(pairs: Sequence[Pair]) -> PairBatch:
    """Puts examples of one size into a batch.

    Args:
        pairs: B examples.
    """
    images = np.stack([pair.image for pair in pairs])
    return PairBatch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        texts=tuple(pair.text for pair in pairs),
        sources=tuple(pair.source for pair in pairs),
        corrupt=tuple(path for pair in pairs for path in pair.corrupt),
    )
