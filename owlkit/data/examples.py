"""Training examples without end: the example of an index is the same whoever asks, and when.

Shapes: N boxes, Q queries, S side of the model input in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from owlkit.data.augmentation import Augmentation, may_flip
from owlkit.data.coco import DetectionDataset, ImageRecord
from owlkit.data.merging import merge_overlapping
from owlkit.data.mosaic import Tile, assemble, tile_sizes
from owlkit.data.packing import PackedRecords
from owlkit.data.pictures import UnreadableImages
from owlkit.data.queries import QuerySampler
from owlkit.data.reading import read_rgb
from owlkit.errors import DatasetError

"""So many unreadable files one after another are no accident."""

_SHARE_BITS = 32
# Keep the draws of an epoch's order and of templates apart from those of examples; not 0, because
# numpy's seeds [a, b] and [a, b, 0] are one.
_ORDER = 1
_TEMPLATES = 2


@dataclass(frozen=True, eq=False)
class TrainingSource:
    """A data set to learn from.

    Attributes:
        dataset: Its images and boxes.
        queries: Chooses what is asked about them.
        weight: Share of the examples, relative to other sources; above 0.
    """

    dataset: DetectionDataset
    queries: QuerySampler
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Example:
    """One picture as the model sees it, with what is asked and what there is.

    Attributes:
        image: RGB, uint8 [S, S, 3].
        texts: Distinct queries, Q of them.
        labels: True where a box is an instance of a query [N, Q]; at least once in each row.
        boxes: xyxy as fractions of the image, float32 [N, 4].
        source: The files that the picture was made of.
        images_read: Files that were opened, one for each tile and those in ``corrupt``.
        corrupt: Files that could not be read and were replaced by others.
    """

    image: NDArray[np.uint8]
    texts: tuple[str, ...]
    labels: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    source: str
    images_read: int
    corrupt: tuple[str, ...] = ()


class DetectionExamples(Dataset[Example]):
    """Makes the example of any index from 0; ``seed`` and index decide everything.

    An example is one picture or a mosaic of 4, 9, ... of one source. Sources take turns in exact
    proportion to their weights. The first tile of a source's examples walks through the source in
    a new random order each epoch, so that each of its images leads once in as many examples as the
    source has images; the other tiles are random images, different ones as far as there are enough.

    Boxes beyond ``max_boxes`` are dropped in the order of the tiles, then boxes whose query found
    no place. A class whose boxes were all cropped away or dropped may still be in view, so it is
    not asked for.

    A file that cannot be read is replaced by a random image of its source, named in
    :attr:`Example.corrupt`, and logged once by each process.

    Args:
        sources: At least one.
        augmentation: Makes a tile of an image.
        size: S, height and width of examples in pixels.
        mosaic: Proportions of examples made of 1, 4, 9, ... images.
        max_boxes: Most boxes per example.
        merge_iou: Boxes that overlap at least so much become one with all their labels; None keeps
            both.
        seed: Whole number of at least 0.
        template_group: So many consecutive examples ask for a class in the same words, so that a
            batch of them has few distinct texts.

    Raises:
        DatasetError: There is no source, a source has no image, or mosaics have more tiles than
            pixels.
    """

    def __init__(
        self,
        sources: Sequence[TrainingSource],
        *,
        augmentation: Augmentation,
        size: int,
        mosaic: Sequence[float] = (1.0,),
        max_boxes: int = 100,
        merge_iou: float | None = 0.9,
        seed: int = 0,
        template_group: int = 1,
    ) -> None:
        _check_sources(sources)
        self._size = size
        self._augmentation = augmentation
        self._tile_sizes = [tile_sizes(size, side + 1) for side in range(len(mosaic))]
        # Up to which random number in [0, 1) an example is a mosaic of each size.
        limits = np.cumsum(mosaic)
        self._mosaic_limits = limits / limits[-1]
        self._max_boxes = max_boxes
        self._merge_iou = merge_iou
        self._seed = seed
        self._template_group = template_group
        self._shares = _shares([source.weight for source in sources])
        self._images = [PackedRecords(source.dataset.images) for source in sources]
        self._queries = [source.queries for source in sources]
        self._mirrors = [
            np.array([may_flip([name]) for name in source.dataset.names]) for source in sources
        ]
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}
        self._unreadable = UnreadableImages()

    def __getitem__(self, index: int) -> Example:
        """Makes one example.

        Raises:
            DatasetError: A hundred images, one after another, cannot be read.
        """
        generator = np.random.default_rng([self._seed, index])
        number, position = _turn(index, self._shares)
        side = int(np.searchsorted(self._mosaic_limits, generator.random(), side="right"))
        sizes = self._tile_sizes[side]
        rows = self._images_of(number, position, len(sizes), generator)
        tiles: list[Tile] = []
        records: list[ImageRecord] = []
        corrupt: list[str] = []
        for row, size in zip(rows, sizes, strict=True):
            record, image = self._read(number, row, size, generator, corrupt)
            records.append(record)
            tiles.append(self._tile(record, image, self._mirrors[number], size, generator))
        mosaic = assemble(tiles, self._size)
        group = index // self._template_group
        templates = np.random.default_rng([self._seed, group, _TEMPLATES])
        return self._example(number, mosaic, records, corrupt, generator, templates)

    def _images_of(
        self, number: int, position: int, count: int, generator: np.random.Generator
    ) -> list[int]:
        """The images of an example; the first one is the epoch's next."""
        images = len(self._images[number])
        epoch, place = divmod(position, images)
        if number not in self._orders or self._orders[number][0] != epoch:
            order = np.random.default_rng([self._seed, number, epoch, _ORDER]).permutation(images)
            self._orders[number] = epoch, order
        leading = int(self._orders[number][1][place])
        if count == 1:
            return [leading]
        others = generator.choice(images - 1, min(count, images) - 1, replace=False)
        others += others >= leading
        chosen: list[int] = np.resize([leading, *others.tolist()], count).tolist()
        return chosen

    def _read(
        self,
        number: int,
        row: int,
        size: tuple[int, int],
        generator: np.random.Generator,
        corrupt: list[str],
    ) -> tuple[ImageRecord, NDArray[np.uint8]]:
        """An image, or another one where it cannot be read; appends what cannot to ``corrupt``."""
        images, needed = self._images[number], self._augmentation.pixels_needed(size)
        row, image, unreadable = self._unreadable.replace(
            row,
            lambda row: read_rgb(images[row].path, at_least=needed),
            lambda row: str(images[row].path),
            count=len(images),
            generator=generator,
        )
        corrupt += unreadable
        return images[row], image

    def _tile(
        self,
        record: ImageRecord,
        image: NDArray[np.uint8],
        mirrors: NDArray[np.bool_],
        size: tuple[int, int],
        generator: np.random.Generator,
    ) -> Tile:
        """One augmented image."""
        height, width = image.shape[:2]
        scale = np.array([width / record.width, height / record.height] * 2, dtype=np.float32)
        # What is absent is said about this side of the mirror, too.
        said = [*record.labels.tolist(), *record.absent]
        return self._augmentation(
            image,
            record.boxes * scale,
            record.labels,
            size=size,
            may_flip=bool(mirrors[said].all()),
            seed=int(generator.integers(1 << 32)),
        )

    def _example(
        self,
        number: int,
        mosaic: Tile,
        records: Sequence[ImageRecord],
        corrupt: Sequence[str],
        generator: np.random.Generator,
        templates: np.random.Generator,
    ) -> Example:
        """Asks about a finished picture, and puts its parts into the form of the model."""
        there = dict.fromkeys(label for record in records for label in record.labels.tolist())
        asked = self._queries[number](
            mosaic.labels[: self._max_boxes],
            absent=[name for record in records for name in record.absent if name not in there],
            unknown=[*there, *(name for record in records for name in record.unknown)],
            generator=generator,
            templates=templates,
        )
        answered = asked.labels.any(axis=1)
        labels = asked.labels[answered]
        boxes = mosaic.boxes[: self._max_boxes][answered] / np.float32(self._size)
        if self._merge_iou is not None:
            boxes, labels = merge_overlapping(
                boxes, labels, iou=self._merge_iou, generator=generator
            )
        return Example(
            image=mosaic.image,
            texts=asked.texts,
            labels=labels,
            boxes=boxes,
            source=", ".join(str(record.path) for record in records),
            images_read=len(records) + len(corrupt),
            corrupt=tuple(corrupt),
        )


def _check_sources(sources: Sequence[TrainingSource]) -> None:
    if not sources:
        raise DatasetError("expected at least one data set to learn from, found none")
    for number, source in enumerate(sources):
        if not source.dataset.images:
            raise DatasetError(f"data set {number}: expected at least one image, found none")


def _shares(weights: Sequence[float]) -> list[int]:
    """Of the turns that the sources before it leave, the share of each source, in 2**-32."""
    left = [sum(weights[number:]) for number in range(len(weights))]
    return [
        round(weight / rest * (1 << _SHARE_BITS))
        for weight, rest in zip(weights, left, strict=True)
    ]


def _turn(index: int, shares: Sequence[int]) -> tuple[int, int]:
    """Which source makes an example, and how many of the examples before it that source made."""
    for number, share in enumerate(shares):
        before, after = (turn * share >> _SHARE_BITS for turn in (index, index + 1))
        if after > before:
            return number, before
        index -= before
    raise AssertionError("the last source takes every turn that is left")
