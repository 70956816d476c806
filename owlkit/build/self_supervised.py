"""From a configuration to self-supervised pretraining."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from owlkit.build.images import build_loaders, read_image_source
from owlkit.build.paths import expanded
from owlkit.build.runs import batch_plan, run_folder, run_output, suit_attention
from owlkit.build.self_supervised_tasks import build_self_supervised_task
from owlkit.config import LabelledSetSection, SelfSupervisedConfig
from owlkit.data.class_images import ClassImages, read_class_images
from owlkit.data.image_sources import ImageSource
from owlkit.encoders.vision import VisionTower
from owlkit.engine import Accelerator, Evaluation, Trainer, create_accelerator
from owlkit.evaluation.encoder import check_same_classes, encode_classes
from owlkit.evaluation.features import Encoder
from owlkit.evaluation.knn import knn_probe
from owlkit.models import ImageBackbone
from owlkit.structures import CropBatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Rows:
    """Some of a source's pictures."""

    source: ImageSource
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int, *, at_least: int | None = None) -> NDArray[np.uint8]:
        return self.source.read(self.rows[index], at_least=at_least)

    def where(self, index: int) -> str:
        return self.source.where(self.rows[index])


def build_self_supervised_training(config: SelfSupervisedConfig) -> Trainer:
    """Makes everything that self-supervised pretraining needs.

    Args:
        config: Of a run with a name.

    Returns:
        The trainer; ``trainer.fit(resume=config.resume)`` runs it.

    Raises:
        ConfigError: If sections do not fit together, or the run exists already.
        DatasetError: If the images cannot be used.
        CheckpointError: If weights to start from are missing or do not fit.
    """
    folder = run_folder(config)
    accelerator = create_accelerator(config.train)
    # Data first: what is wrong with it should not be found only after gigabytes of weights.
    source = read_image_source(config.data.train)
    evaluation = _build_evaluation(config, accelerator)
    if evaluation is None:
        logger.info("no data.val_classes: nothing is measured, best/ will be the last weights")
    if source is not None and len(source) < config.train.batch_size:
        logger.info(
            "data.train: %d images are fewer than train.batch_size %d: batches repeat some",
            *(len(source), config.train.batch_size),
        )
    task = build_self_supervised_task(config)
    for module in task.modules():
        if isinstance(module, VisionTower):
            suit_attention(module, accelerator, config.train)
    loaders = build_loaders(
        config, source, task.model, pin_memory=accelerator.device.type == "cuda"
    )

    def make_batches(start_step: int) -> Iterable[CropBatch]:
        return loaders(batch_plan(config.train, accelerator, start_step))

    return Trainer(
        task,
        optim=config.optim,
        train=config.train,
        make_batches=make_batches,
        output=run_output(config, folder, accelerator),
        evaluation=evaluation,
        seed=config.seed,
        accelerator=accelerator,
    )


def _build_evaluation(config: SelfSupervisedConfig, accelerator: Accelerator) -> Evaluation | None:
    """Measures by nearest neighbours; None where there is nothing to measure on."""
    if config.data.val_classes.classes is None:
        return None
    bank = _read_labelled(config.data.bank_classes, key="data.bank_classes", seed=config.seed)
    val = _read_labelled(config.data.val_classes, key="data.val_classes", seed=config.seed)
    check_same_classes(bank, val)

    def measure(model: ImageBackbone, step: int) -> Mapping[str, float]:
        if not accelerator.is_main_process:
            return {}
        encoder = Encoder(
            model.vision, preprocessing=model.preprocessing, batch_size=config.eval.batch_size
        )
        known, asked = encode_classes(encoder, bank), encode_classes(encoder, val)
        found = knn_probe(
            known.features,
            known.labels,
            asked.features,
            asked.labels,
            k=min(config.eval.neighbours, len(known.labels)),
            temperature=config.eval.temperature,
        )
        return {"knn_top1": found.top1, "knn_top5": found.top5}

    return Evaluation(measure, "knn_top1")


def _read_labelled(section: LabelledSetSection, *, key: str, seed: int) -> ClassImages:
    """Reads labelled images, or a random part of them; ``key`` is for messages."""
    path = expanded(
        section.classes, key=f"{key}.classes", expected="a folder of classes or an .npz file"
    )
    images = read_class_images(path)
    if section.max_images is None or section.max_images >= len(images):
        return images
    chosen = np.random.default_rng(seed).permutation(len(images))[: section.max_images]
    rows = _Rows(images.source, tuple(chosen.tolist()))
    return replace(images, labels=images.labels[chosen], source=rows)
