"""From the `data` section of self-supervised pretraining to images and their views."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from owlkit.build.paths import expanded, shard_urls
from owlkit.build.runs import input_side
from owlkit.config import ImageSetSection, SelfSupervisedConfig
from owlkit.data.block_masks import BlockMasks
from owlkit.data.captions import read_captioned_images
from owlkit.data.class_images import read_class_images
from owlkit.data.crops import CropCollator, CropExamples
from owlkit.data.image_sources import ImageSource, captioned_files, read_images
from owlkit.data.loader import BatchPlan, build_loader
from owlkit.data.multi_crop import Crops, LateViews, MultiCrop
from owlkit.data.shards import ShardSource, ShardStream, build_shard_loader
from owlkit.data.view_recipes import dino_recipes, mae_recipe
from owlkit.data.views import ViewRecipe
from owlkit.errors import ConfigError
from owlkit.models import ImageBackbone
from owlkit.structures import CropBatch

# Of a global view, as published: DINO, MAE and BYOL.
_GLOBAL_AREA = {"dino": (0.4, 1.0), "mae": (0.2, 1.0), "byol": (0.08, 1.0)}


@dataclass(frozen=True)
class ImageLoaders:
    """Makes the batches of one training process.

    Attributes:
        data: Images by their number, or a stream of them from shards.
        collate: Joins the views of images to a batch.
        workers: Processes that make batches.
        pin_memory: For transfers to a GPU.
    """

    data: CropExamples | ShardStream[Crops]
    collate: CropCollator
    workers: int
    pin_memory: bool

    def __call__(self, plan: BatchPlan) -> Iterable[CropBatch]:
        """The batches of a plan."""
        options: dict[str, Any] = {
            "collate": self.collate,
            "workers": self.workers,
            "pin_memory": self.pin_memory,
        }
        if isinstance(self.data, ShardStream):
            return build_shard_loader(self.data, plan, **options)
        loader: Iterable[Any] = build_loader(self.data, plan, **options)
        return loader


def read_image_source(section: ImageSetSection) -> ImageSource | None:
    """Finds what is learned from, if it is not shards.

    Raises:
        ConfigError: If there is nothing to learn from.
        DatasetError: If it cannot be used.
    """
    if section.shards:
        return None
    if section.classes is not None:
        return read_class_images(
            expanded(section.classes, key="data.train.classes", expected="a folder of classes")
        )
    if section.images is None:
        found = "none of them" if section.captions is None else "captions alone"
        raise ConfigError(
            f"data.train: expected images, captions with images, classes or shards, found {found}"
        )
    folder = expanded(section.images, key="data.train.images", expected="a folder of images")
    if section.captions is None:
        return read_images(folder)
    captions = expanded(section.captions, key="data.train.captions", expected="a file of captions")
    return captioned_files(read_captioned_images(captions, folder, split=section.split))


def view_sizes(config: SelfSupervisedConfig, model: ImageBackbone) -> dict[str, int]:
    """Sides of all views in pixels, by the keys that decide them.

    Args:
        config: Of the run.
        model: The backbone, whose own size is that of global views if nothing is said.

    Raises:
        ConfigError: If its own size is to be taken and not square.
    """
    crops, end = config.data.crops, config.data.end_phase
    own, size = "model.vision.image_size", crops.global_size
    sizes = (
        {own: input_side(model.preprocessing)} if size is None else {"data.crops.global_size": size}
    )
    if config.loss.objective == "dino" and crops.local_crops:
        sizes["data.crops.local_size"] = crops.local_size
    later = {
        "data.end_phase.global_size": end.global_size,
        "data.end_phase.local_size": end.local_size,
    }
    return sizes | {key: size for key, size in later.items() if size is not None}


def build_loaders(
    config: SelfSupervisedConfig,
    source: ImageSource | None,
    model: ImageBackbone,
    *,
    pin_memory: bool,
) -> ImageLoaders:
    """Makes what makes the batches.

    Args:
        config: Of the run.
        source: Of :func:`read_image_source`.
        model: The backbone that sees the views.
        pin_memory: For transfers to a GPU.
    """
    section = config.data
    size = section.crops.global_size or input_side(model.preprocessing)
    recipes = _recipes(config, size, section.crops.local_size)
    count = 1 if config.loss.objective == "mae" else 2
    late = _late_views(config, size)
    data: CropExamples | ShardStream[Crops]
    if source is None:
        data = ShardStream(
            [ShardSource(shard_urls(section.train.shards, key="data.train.shards"))],
            MultiCrop(recipes, global_crops=count, late=late),
            captions=False,
            seed=config.seed,
            shuffle_buffer=section.shuffle_buffer,
        )
    else:
        data = CropExamples(source, recipes, seed=config.seed, global_crops=count, late=late)
    masks = None
    if config.loss.objective == "dino" and config.loss.dino.ibot_weight:
        dino = config.loss.dino
        masks = BlockMasks(
            model.vision.patch_size, probability=dino.mask_probability, ratio=dino.mask_ratio
        )
    return ImageLoaders(data, CropCollator(masks, config.seed), section.workers, pin_memory)


def _recipes(
    config: SelfSupervisedConfig, global_size: int, local_size: int
) -> tuple[ViewRecipe, ...]:
    """What the views of a picture are, global ones first."""
    crops, objective = config.data.crops, config.loss.objective
    area = crops.global_area or _GLOBAL_AREA[objective]
    if objective == "mae":
        return (mae_recipe(global_size, area=area, flip=crops.flip),)
    # BYOL's two views are those of DINO without local ones.
    return dino_recipes(
        global_size=global_size,
        local_size=local_size,
        local_crops=crops.local_crops if objective == "dino" else 0,
        global_area=area,
        local_area=crops.local_area,
        blur=crops.blur,
        solarize=crops.solarize,
        aspect=crops.aspect,
        flip=crops.flip,
        jitter=crops.jitter,
        jittered=crops.jittered,
        grey=crops.grey,
        blur_sigma=crops.blur_sigma,
    )


def _late_views(config: SelfSupervisedConfig, global_size: int) -> LateViews | None:
    """The views of the end phase; None without one."""
    end = config.data.end_phase
    if not end.steps:
        return None
    recipes = _recipes(
        config, end.global_size or global_size, end.local_size or config.data.crops.local_size
    )
    return LateViews(recipes, (config.train.steps - end.steps) * config.train.batch_size)
