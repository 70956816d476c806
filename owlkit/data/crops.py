"""Crops of pictures for self-supervised learning, without end, and batches of them.

Shapes: B examples, G global and L local crops of each, S and s their sides in pixels, P patches of
a global crop.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from owlkit.data.block_masks import BlockMasks
from owlkit.data.epoch_order import EpochOrder
from owlkit.data.image_sources import ImageSource
from owlkit.data.multi_crop import Crops, LateViews, MultiCrop
from owlkit.data.pictures import Picture, UnreadableImages, channels_first
from owlkit.data.views import ViewRecipe
from owlkit.errors import DatasetError
from owlkit.structures import CropBatch

# Keep the draws of one purpose apart from those of another.
_ORDER, _CROPS, _MASKS = 0, 1, 2


class CropExamples(Dataset[Crops]):
    """An endless stream of pictures; example number i depends on the seed and i alone.

    Every epoch visits each picture once. One that cannot be read is replaced by a random one, named
    in :attr:`Crops.corrupt`, and logged once by each process. Large JPEGs are decoded at a fraction
    of their size where that is enough for all crops.

    Args:
        source: What to draw from; at least one picture.
        recipes: One for each crop, global ones first.
        seed: Of order and crops.
        global_crops: How many of the recipes are global.
        late: Recipes for the end of the run; None for the same.

    Raises:
        ConfigError: If recipes are too few or differ in size.
        DatasetError: If there is no picture.
    """

    def __init__(
        self,
        source: ImageSource,
        recipes: Sequence[ViewRecipe],
        *,
        seed: int = 0,
        global_crops: int = 2,
        late: LateViews | None = None,
    ) -> None:
        if not len(source):
            raise DatasetError("expected at least one image to learn from, found none")
        self.source = source
        self.crop = MultiCrop(recipes, global_crops=global_crops, late=late)
        self.seed = seed
        self._order = EpochOrder(len(source), [seed, _ORDER])
        self._unreadable = UnreadableImages()

    def __getitem__(self, index: int) -> Crops:
        """Returns example ``index``, 0 or more.

        Raises:
            DatasetError: A hundred pictures, one after another, cannot be read.
        """
        needed = self.crop.pixels_needed(index)
        generator = np.random.default_rng([self.seed, _CROPS, index])
        row, image, corrupt = self._unreadable.replace(
            self._order[index],
            lambda row: self.source.read(row, at_least=needed),
            self.source.where,
            count=len(self.source),
            generator=generator,
        )
        picture = Picture(image, self.source.where(row), corrupt=corrupt)
        return self.crop(picture, index, generator)


class CropCollator:
    """Joins examples to a batch, and draws what is hidden from the student.

    Args:
        masks: Draws the masks of the global crops; None for none.
        seed: Of the masks, which depend on it and on the number of the batch's first example.
    """

    def __init__(self, masks: BlockMasks | None = None, seed: int = 0) -> None:
        self.masks = masks
        self.seed = seed

    def __call__(self, examples: Sequence[Crops]) -> CropBatch:
        """Makes a batch.

        Args:
            examples: B of them, with equally many crops of equal sizes.

        Raises:
            ConfigError: If there are masks, and patches do not fill the crops.
        """
        global_crops = channels_first([example.global_crops for example in examples])
        local = [one.local_crops for one in examples if one.local_crops is not None]
        return CropBatch(
            global_crops=global_crops,
            sources=tuple(example.source for example in examples),
            local_crops=channels_first(local) if local else None,
            masks=None if self.masks is None else self._draw(self.masks, global_crops, examples[0]),
            corrupt=tuple(path for example in examples for path in example.corrupt),
        )

    def _draw(self, masks: BlockMasks, global_crops: Tensor, first: Crops) -> Tensor:
        batch, count = global_crops.shape[:2]
        generator = np.random.default_rng([self.seed, _MASKS, first.number])
        drawn = masks(batch * count, masks.grid(global_crops.shape[-1]), generator)
        return torch.from_numpy(drawn.reshape(batch, count, -1))
