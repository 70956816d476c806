"""From a configuration to contrastive pretraining."""

import logging
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from owlkit.build.dual_encoder import build_dual_encoder
from owlkit.build.pairs import (
    PairLoaders,
    build_pairs,
    read_captions,
    read_classes,
    read_pair_source,
)
from owlkit.build.paths import expanded
from owlkit.build.runs import batch_plan, run_folder, run_output, suit_attention
from owlkit.config import ContrastiveConfig, ContrastiveLossSection
from owlkit.data.pair_sources import PairSource
from owlkit.engine import (
    Accelerator,
    ContrastiveTask,
    Evaluation,
    Objective,
    SimclrHead,
    Trainer,
    clip_objective,
    create_accelerator,
    share_of_batch,
    siglip_objective,
    triplet_objective,
)
from owlkit.errors import ConfigError
from owlkit.evaluation.encoder import encode_classes, measure_retrieval, measure_zero_shot
from owlkit.evaluation.feature_cache import FeatureCache
from owlkit.evaluation.features import Encoder, pooled_features
from owlkit.models import DualEncoder
from owlkit.structures import PairBatch

logger = logging.getLogger(__name__)


def build_contrastive_training(config: ContrastiveConfig) -> Trainer:
    """Makes everything that contrastive pretraining needs.

    Args:
        config: Of a run with a name.

    Returns:
        The trainer; ``trainer.fit(resume=config.resume)`` runs it.

    Raises:
        ConfigError: If sections do not fit together, or the run exists already.
        DatasetError: If the captions or images cannot be used.
        CheckpointError: If weights to start from are missing or do not fit.
    """
    folder = run_folder(config)
    accelerator = create_accelerator(config.train)
    _check_groups(config, share_of_batch(config.train, accelerator))
    # Data first: what is wrong with it should not be found only after gigabytes of weights.
    source = read_pair_source(config.data.train)
    evaluation = _build_evaluation(config, accelerator)
    if evaluation is None:
        logger.info("no data.val_captions or val_classes: best/ will be the last weights")
    model = build_dual_encoder(
        config.model, loss=config.loss, batch_size=config.train.batch_size, seed=config.seed
    )
    suit_attention(model.vision, accelerator, config.train)
    pairs = build_pairs(
        config.data,
        source,
        preprocessing=model.preprocessing,
        views=config.loss.simclr_weight > 0,
        pooled=_locked_vectors(config, model, source, accelerator),
        seed=config.seed,
    )
    loaders = PairLoaders(
        pairs,
        workers=config.data.workers,
        pin_memory=accelerator.device.type == "cuda",
        length_window=config.data.length_window,
    )

    def make_batches(start_step: int) -> Iterable[PairBatch]:
        return loaders(batch_plan(config.train, accelerator, start_step))

    return Trainer(
        _build_task(config, model),
        optim=config.optim,
        train=config.train,
        make_batches=make_batches,
        output=run_output(config, folder, accelerator),
        evaluation=evaluation,
        seed=config.seed,
        accelerator=accelerator,
    )


def build_objective(section: ContrastiveLossSection) -> Objective:
    """Makes the loss of a batch of pairs."""
    if section.objective == "siglip":
        return siglip_objective(section.chunk_size)
    if section.objective == "triplet":
        return triplet_objective(section.margin, section.mining)
    return clip_objective()


def _build_task(config: ContrastiveConfig, model: DualEncoder) -> ContrastiveTask:
    loss = config.loss
    simclr = None
    if loss.simclr_weight > 0:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            simclr = SimclrHead(model.vision.pooled_width, temperature=loss.simclr_temperature)
    return ContrastiveTask(
        model,
        build_objective(loss),
        patch_dropout=loss.patch_dropout,
        accumulation=config.train.accumulation,
        simclr=simclr,
        simclr_weight=loss.simclr_weight,
    )


def _check_groups(config: ContrastiveConfig, share: int) -> None:
    """Refuses to tear groups of look-alikes apart.

    Args:
        config: Of the run.
        share: Pairs of each process at each step.
    """
    if share % config.data.group_size:
        raise ConfigError(
            "train.batch_size: expected a multiple of processes x data.group_size "
            f"({config.data.group_size}), so that no group of look-alikes is torn apart; found "
            f"{config.train.batch_size}, which gives each process {share}"
        )


def _locked_vectors(
    config: ContrastiveConfig,
    model: DualEncoder,
    source: PairSource | None,
    accelerator: Accelerator,
) -> NDArray[np.float32] | None:
    """What the locked image tower says of the images, computed by the first process only."""
    if config.data.cache is None or source is None:
        return None
    folder = expanded(config.data.cache, key="data.cache", expected="a folder")
    with accelerator.main_process_first():
        model.to(accelerator.device)
        return pooled_features(
            model, source, cache=FeatureCache(folder), batch_size=config.eval.batch_size
        )


def _build_evaluation(config: ContrastiveConfig, accelerator: Accelerator) -> Evaluation | None:
    """Measures retrieval and zero-shot accuracy; None where there is nothing to measure on."""
    captions, classes = config.data.val_captions, config.data.val_classes
    captioned = None
    if captions.captions is not None:
        captioned = read_captions(captions, key="data.val_captions")[: captions.max_images]
    labelled = None
    if classes.classes is not None:
        labelled = read_classes(classes, key="data.val_classes")
    if captioned is None and labelled is None:
        return None

    def measure(model: DualEncoder, step: int) -> Mapping[str, float]:
        if not accelerator.is_main_process:
            return {}
        encoder = Encoder(model, batch_size=config.eval.batch_size)
        metrics: dict[str, float] = {}
        if labelled is not None:
            found = encode_classes(encoder, labelled)
            metrics |= measure_zero_shot(encoder, found, templates=classes.templates).metrics
        if captioned is not None:
            recalls = measure_retrieval(encoder, captioned)
            both = [recalls[f"{way}_recall@1"] for way in ("text_to_image", "image_to_text")]
            metrics |= {"recall@1": sum(both) / 2, **recalls}
        return metrics

    best_metric = "zero_shot_top1" if captioned is None else "recall@1"
    return Evaluation(measure, best_metric)
