"""From the `data` section of stage one to pairs of images and texts, and to what is measured on."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from numpy import float32
from numpy.typing import NDArray

from owlkit.build.paths import expanded, shard_urls
from owlkit.build.runs import input_side
from owlkit.config import CaptionSetSection, ClassSetSection, PairSetSection, PairsSection
from owlkit.data.augmentation import Augmentation
from owlkit.data.bucketing import BucketedPlan
from owlkit.data.captions import CaptionedImage, read_captioned_images
from owlkit.data.class_images import ClassImages, read_class_images
from owlkit.data.loader import BatchPlan, build_loader
from owlkit.data.pair_sources import CaptionSource, ClassSource, PairSource
from owlkit.data.pairs import CaptionPairs, Pair, PairAugmentation, PairExamples, collate_pairs
from owlkit.data.shards import ShardSource, ShardStream, build_shard_loader
from owlkit.data.view_recipes import simclr_recipe
from owlkit.data.views import ViewAugmentation
from owlkit.errors import ConfigError
from owlkit.geometry import Preprocessing
from owlkit.prompts import resolve_templates
from owlkit.structures import PairBatch


@dataclass(frozen=True)
class PairLoaders:
    """Makes the batches of one training process.

    Attributes:
        data: Pairs by their number, or a stream of them from shards.
        workers: Processes that make batches.
        pin_memory: For transfers to a GPU.
        length_window: Batches whose pairs are sorted by length together.
    """

    data: PairExamples | ShardStream[Pair]
    workers: int
    pin_memory: bool
    length_window: int = 1

    def __call__(self, plan: BatchPlan) -> Iterable[PairBatch]:
        """The batches of a plan."""
        if isinstance(self.data, ShardStream):
            return build_shard_loader(
                self.data,
                plan,
                collate=collate_pairs,
                workers=self.workers,
                pin_memory=self.pin_memory,
            )
        batches: BatchPlan | BucketedPlan = plan
        if self.length_window > 1:
            data = self.data
            batches = BucketedPlan(plan, data.text_length, self.length_window, data.seed)
        loader: Iterable[Any] = build_loader(
            self.data,
            batches,
            collate=collate_pairs,
            workers=self.workers,
            pin_memory=self.pin_memory,
        )
        return loader


def read_pair_source(section: PairSetSection) -> PairSource | None:
    """Reads what is learned from, if it is not shards.

    Raises:
        ConfigError: If there is nothing to learn from.
        DatasetError: If it cannot be used.
        QueryError: If there are no such templates.
    """
    if section.shards:
        return None
    if section.classes is not None:
        templates = resolve_templates(section.templates)
        return ClassSource(read_classes(section, key="data.train"), templates)
    if section.captions is None:
        raise ConfigError(
            "data.train: expected captions (with images), classes or shards, found none of them"
        )
    return CaptionSource(read_captions(section, key="data.train"))


def read_captions(section: CaptionSetSection, *, key: str) -> tuple[CaptionedImage, ...]:
    """Reads images with captions; ``key`` is the section's name for messages."""
    return read_captioned_images(
        expanded(section.captions, key=f"{key}.captions", expected="a file of captions"),
        expanded(section.images, key=f"{key}.images", expected="the folder of the images"),
        split=section.split,
    )


def read_classes(section: ClassSetSection, *, key: str) -> ClassImages:
    """Reads images with classes; ``key`` is the section's name for messages."""
    path = expanded(
        section.classes, key=f"{key}.classes", expected="a folder of classes or an .npz file"
    )
    return read_class_images(path, names=section.names)


def build_pairs(
    section: PairsSection,
    source: PairSource | None,
    *,
    preprocessing: Preprocessing,
    views: bool,
    pooled: NDArray[float32] | None,
    seed: int,
) -> PairExamples | ShardStream[Pair]:
    """Makes the stream of pairs.

    Args:
        section: The ``data`` section.
        source: Of :func:`read_pair_source`.
        preprocessing: The model's; says how large its input is and how images fit into it.
        views: Whether each image comes with two strong views.
        pooled: What a locked image tower made of each image, instead of the images.
        seed: Of order, texts and augmentation.
    """
    augmentation = Augmentation(
        flip=section.flip,
        crop=section.crop,
        crop_area=section.crop_area,
        crop_aspect=section.crop_aspect,
        colour_jitter=section.colour_jitter,
        # A random crop is stretched, as by everybody; to cut its centre out would crop it again.
        fit="squash" if section.crop else preprocessing.fit,
        pad_value=preprocessing.pad_value,
    )
    side = input_side(preprocessing)
    strong = ViewAugmentation(simclr_recipe(side)) if views else None
    if source is None:
        sets = [section.train, *section.extra]
        return ShardStream(
            [_shards(one, key=f"data.{'extra' if n else 'train'}") for n, one in enumerate(sets)],
            CaptionPairs(PairAugmentation(augmentation, side, strong)),
            seed=seed,
            shuffle_buffer=section.shuffle_buffer,
        )
    return PairExamples(
        source,
        augmentation,
        size=side,
        group_size=section.group_size,
        seed=seed,
        views=strong,
        pooled=pooled,
    )


def _shards(section: PairSetSection, *, key: str) -> ShardSource:
    return ShardSource(shard_urls(section.shards, key=f"{key}.shards"), section.weight)
