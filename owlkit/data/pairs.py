"""Pairs of an image and a text for contrastive pretraining, without end, and batches of them.

Shapes: B pairs, S side of the model input in pixels, Dp width of what an image tower makes of an
image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from owlkit.data.augmentation import Augmentation, may_flip
from owlkit.data.epoch_order import EpochOrder
from owlkit.data.pair_sources import PairSource, caption_identity
from owlkit.data.pictures import Picture, UnreadableImages, channels_first
from owlkit.data.views import ViewAugmentation
from owlkit.errors import ConfigError, DatasetError
from owlkit.structures import PairBatch

_NO_BOXES = np.zeros((0, 4), dtype=np.float32)
_NO_LABELS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Pair:
    """One training example.

    Attributes:
        image: RGB, uint8 [S, S, 3]; None where ``pooled`` is given.
        text: What is said about it.
        identity: Number in [0, 2**63); pairs with equal numbers mean the same.
        source: Where the image comes from.
        corrupt: What could not be read and was replaced by this.
        views: Two strong views of the image, uint8 [2, S, S, 3], or None.
        pooled: What a locked tower made of the image, float32 [Dp], or None.
    """

    image: NDArray[np.uint8] | None
    text: str
    identity: int
    source: str
    corrupt: tuple[str, ...] = ()
    views: NDArray[np.uint8] | None = None
    pooled: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class PairAugmentation:
    """What a picture of a pair becomes: the model's input and, if wanted, two strong views.

    Attributes:
        augmentation: Makes the input.
        size: Side of the input in pixels.
        views: Makes the views; None for none.
    """

    augmentation: Augmentation
    size: int
    views: ViewAugmentation | None = None

    def __call__(
        self, image: NDArray[np.uint8], text: str, generator: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Returns the input, uint8 [S, S, 3], and the views, uint8 [2, S', S', 3] or None.

        Args:
            image: RGB, uint8 [H, W, 3].
            text: Decides whether the input may be mirrored.
            generator: Of all draws.
        """
        tile = self.augmentation(
            image,
            _NO_BOXES,
            _NO_LABELS,
            size=self.size,
            may_flip=may_flip([text]),
            seed=int(generator.integers(2**31)),
        )
        if self.views is None:
            return tile.image, None
        seeds = generator.integers(2**31, size=2).tolist()
        return tile.image, np.stack([self.views(image, seed=seed) for seed in seeds])


@dataclass(frozen=True, eq=False)
class CaptionPairs:
    """Makes pairs of pictures that come with captions; equal captions mean the same.

    Attributes:
        augmentation: What a picture becomes.
    """

    augmentation: PairAugmentation

    def __call__(self, picture: Picture, number: int, generator: np.random.Generator) -> Pair:
        """Makes a pair.

        Args:
            picture: With at least one text.
            number: Of the example in the run; makes no difference.
            generator: Of all draws.
        """
        text = picture.texts[generator.integers(len(picture.texts))]
        image, views = self.augmentation(picture.image, text, generator)
        identity = caption_identity(text)
        return Pair(image, text, identity, picture.source, picture.corrupt, views)


class PairExamples(Dataset[Pair]):
    """An endless stream of pairs; pair number i depends on the seed and i alone.

    Every epoch visits each image once, or, with groups, each group once: ``group_size``
    neighbouring examples come from one group.

    An image that cannot be read is replaced by a random one, named in :attr:`Pair.corrupt`, and
    logged once by each process.

    Args:
        source: What to draw from; at least one image.
        augmentation: What happens to an image.
        size: Side of the result in pixels.
        group_size: Length of a run of look-alikes; 1 ignores the groups.
        seed: Of order, texts and augmentation.
        views: Makes two strong views of each image; None for none.
        pooled: What the locked image tower made of each image of the source, as it is, float32
            [N, Dp]; rows of NaN are left out. Images are then not read.

    Raises:
        ConfigError: If there are runs to be made and a group is too small or missing; or if
            ``pooled`` comes with views, or not with one row per image.
    """

    def __init__(
        self,
        source: PairSource,
        augmentation: Augmentation,
        *,
        size: int,
        group_size: int = 1,
        seed: int = 0,
        views: ViewAugmentation | None = None,
        pooled: NDArray[np.float32] | None = None,
    ) -> None:
        if not len(source):
            raise DatasetError("expected at least one image to learn from, found none")
        if pooled is not None and (views is not None or len(pooled) != len(source)):
            raise ConfigError(
                f"pooled: expected one row for each of {len(source)} images and no views; found "
                f"{len(pooled)} rows{' and views' if views else ''}"
            )
        self.source = source
        self.augmentation = PairAugmentation(augmentation, size, views)
        self.group_size = group_size
        self.seed = seed
        self.pooled = pooled
        # A row of NaN stands for an image that could not be read.
        lost = set() if pooled is None else set(np.flatnonzero(np.isnan(pooled).any(axis=1)))
        numbers = [number for number in range(len(source)) if number not in lost]
        self.groups = _groups(source, numbers, group_size)
        self._order = EpochOrder(len(self.groups), [seed, 0])
        self._unreadable = UnreadableImages()

    def __getitem__(self, index: int) -> Pair:
        """Returns example ``index``, 0 or more.

        Raises:
            DatasetError: A hundred images, one after another, cannot be read.
        """
        number, generator = self._drawn(index)
        if self.pooled is not None:
            return self._pair(number, self._text(number, generator), pooled=self.pooled[number])
        number, picture, corrupt = self._unreadable.replace(
            number,
            self.source.read,
            self.source.where,
            count=len(self.source),
            generator=generator,
        )
        text = self._text(number, generator)
        image, views = self.augmentation(picture, text, generator)
        return self._pair(number, text, image=image, views=views, corrupt=corrupt)

    def text_length(self, index: int) -> int:
        """Characters of the text of example ``index``, without reading its image."""
        return len(self._text(*self._drawn(index)))

    def _drawn(self, index: int) -> tuple[int, np.random.Generator]:
        """The image of an example, and what decides everything else about it."""
        run, slot = divmod(index, self.group_size)
        group = self.groups[self._order[run]]
        members = np.random.default_rng([self.seed, 1, run]).permutation(len(group))
        return group[members[slot]], np.random.default_rng([self.seed, 2, index])

    def _text(self, number: int, generator: np.random.Generator) -> str:
        texts = self.source.texts(number)
        return texts[generator.integers(len(texts))]

    def _pair(
        self,
        number: int,
        text: str,
        *,
        image: NDArray[np.uint8] | None = None,
        views: NDArray[np.uint8] | None = None,
        pooled: NDArray[np.float32] | None = None,
        corrupt: tuple[str, ...] = (),
    ) -> Pair:
        identity, where = self.source.identity(number, text), self.source.where(number)
        return Pair(image, text, identity, where, corrupt, views, pooled)


def _groups(source: PairSource, numbers: Sequence[int], group_size: int) -> list[list[int]]:
    """Images that may stand side by side; each alone, without groups."""
    if group_size == 1:
        return [[number] for number in numbers]
    members: dict[str, list[int]] = {}
    for index in numbers:
        group = source.group(index)
        if group is None:
            raise ConfigError(
                f"group_size {group_size} needs a group for every image; {source.where(index)} "
                "has none"
            )
        members.setdefault(group, []).append(index)
    for name, indices in members.items():
        if len(indices) < group_size:
            raise ConfigError(
                f"group_size is {group_size}, but group {name!r} has {len(indices)} images"
            )
    return list(members.values())


def collate_pairs(pairs: Sequence[Pair]) -> PairBatch:
    """Puts examples of one size into a batch.

    Args:
        pairs: B examples, all with an image or all without, and likewise for views and ``pooled``.
    """
    images = [pair.image for pair in pairs if pair.image is not None]
    views = [pair.views for pair in pairs if pair.views is not None]
    pooled = [pair.pooled for pair in pairs if pair.pooled is not None]
    return PairBatch(
        texts=tuple(pair.text for pair in pairs),
        identities=torch.tensor([pair.identity for pair in pairs], dtype=torch.int64),
        sources=tuple(pair.source for pair in pairs),
        images=channels_first(images) if images else None,
        pooled=torch.from_numpy(np.stack(pooled)) if pooled else None,
        views=channels_first(views) if views else None,
        corrupt=tuple(path for pair in pairs for path in pair.corrupt),
    )
