"""From a configuration to a training of the detector."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from owlkit.build.detector import build_detector
from owlkit.build.paths import expanded
from owlkit.build.runs import batch_plan, input_side, run_folder, run_output, suit_attention
from owlkit.config import (
    AugmentSection,
    DataSection,
    DatasetSection,
    DetectorConfig,
    EvaluationSetSection,
    LossSection,
    QueriesSection,
)
from owlkit.data.augmentation import Augmentation
from owlkit.data.batch import collate
from owlkit.data.coco import DatasetPaths, DetectionDataset, check_presence, read_coco
from owlkit.data.examples import DetectionExamples, TrainingSource
from owlkit.data.loader import build_loader
from owlkit.data.queries import QuerySampler, name_counts
from owlkit.engine import Accelerator, DetectionTask, Evaluation, Trainer, create_accelerator
from owlkit.errors import DatasetError
from owlkit.evaluation.predictions import PredictionSettings, detect_images, predict_results
from owlkit.evaluation.samples import draw_samples
from owlkit.evaluation.truth import read_truth
from owlkit.geometry import Preprocessing
from owlkit.losses import DetectionLoss
from owlkit.models import OwlDetector
from owlkit.structures import DetectionBatch

logger = logging.getLogger(__name__)


def build_detector_training(config: DetectorConfig) -> Trainer:
    """Makes everything that a training of the detector needs, data sets checked.

    Args:
        config: Of a run with a name.

    Returns:
        The trainer; ``trainer.fit(resume=config.resume)`` runs it.

    Raises:
        ConfigError: If sections do not fit together, or the run exists already.
        DatasetError: If a data set cannot be used.
        CheckpointError: If weights to start from are missing or do not fit.
    """
    folder = run_folder(config)
    accelerator = create_accelerator(config.train)
    # Data first: what is wrong with it should not be found only after gigabytes of weights.
    _check_presence(config.data)
    sources = read_sources(config.data)
    evaluation = _build_evaluation(config, folder, accelerator)
    detector = build_detector(config.model, seed=config.seed)
    examples = build_examples(
        sources,
        config.data,
        preprocessing=detector.preprocessing,
        batch_size=config.train.batch_size,
        seed=config.seed,
    )
    if evaluation is None:
        logger.info("no data.val.annotations: nothing is measured, best/ will be the last weights")
    suit_attention(detector.vision, accelerator, config.train)
    task = DetectionTask(
        detector,
        build_loss(config.loss),
        drop_patches=config.loss.drop_patches,
        objectness_top_k=config.loss.objectness_top_k,
    )
    return Trainer(
        task,
        optim=config.optim,
        train=config.train,
        make_batches=_batch_maker(config, examples, accelerator),
        output=run_output(config, folder, accelerator),
        evaluation=evaluation,
        seed=config.seed,
        accelerator=accelerator,
    )


def build_loss(section: LossSection) -> DetectionLoss:
    """Makes the matching loss."""
    return DetectionLoss(
        class_weight=section.class_weight,
        l1_weight=section.l1_weight,
        giou_weight=section.giou_weight,
        focal_alpha=section.focal_alpha,
        focal_gamma=section.focal_gamma,
        normalization=section.normalization,
        objectness_weight=section.objectness_weight,
    )


def read_sources(section: DataSection) -> list[TrainingSource]:
    """Reads and checks the training data sets.

    Args:
        section: The ``data`` section.
    """
    return [_source(section, part, key=key) for key, part in _training_sets(section).items()]


def build_examples(
    sources: Sequence[TrainingSource],
    section: DataSection,
    *,
    preprocessing: Preprocessing,
    batch_size: int,
    seed: int,
) -> DetectionExamples:
    """Makes the stream of examples.

    Args:
        sources: Of :func:`read_sources`.
        section: The ``data`` section.
        preprocessing: The detector's; says how large its input is and how images fit into it.
        batch_size: Examples per optimiser step.
        seed: Of order, augmentation and queries.
    """
    return DetectionExamples(
        sources,
        augmentation=_augmentation(section.augment, preprocessing),
        size=input_side(preprocessing),
        mosaic=section.augment.mosaic,
        max_boxes=section.queries.max_boxes,
        merge_iou=section.queries.merge_iou,
        seed=seed,
        template_group=batch_size if section.queries.draw_templates == "per_batch" else 1,
    )


def _augmentation(section: AugmentSection, preprocessing: Preprocessing) -> Augmentation:
    return Augmentation(
        flip=section.flip,
        crop=section.crop,
        crop_area=section.crop_area,
        crop_aspect=section.crop_aspect,
        min_remaining_area=section.min_remaining_area,
        colour_jitter=section.colour_jitter,
        fit=preprocessing.fit,
        pad_value=preprocessing.pad_value,
    )


def _training_sets(section: DataSection) -> dict[str, DatasetSection]:
    """The sections of the training data sets by their keys."""
    extra = {f"data.extra.{number}": extra for number, extra in enumerate(section.extra)}
    return {"data.train": section.train, **extra}


def _check_presence(section: DataSection) -> None:
    """Names all files and folders that are missing, before hours are spent on reading the others.

    Raises:
        DatasetError: If any is.
    """
    sections: dict[str, EvaluationSetSection] = {**_training_sets(section)}
    if section.val.annotations is not None:
        sections["data.val"] = section.val
    check_presence(_paths(part, key=key) for key, part in sections.items())


def _paths(section: EvaluationSetSection, *, key: str) -> DatasetPaths:
    keys = (f"{key}.annotations", f"{key}.images")
    return DatasetPaths(
        expanded(section.annotations, key=keys[0], expected="a COCO JSON file"),
        expanded(section.images, key=keys[1], expected="the folder of the images"),
        settings=keys,
    )


def _source(data: DataSection, section: DatasetSection, *, key: str) -> TrainingSource:
    dataset = _read(data, section, key=key, exhaustive=section.exhaustive)
    return TrainingSource(dataset, _sampler(data.queries, dataset), weight=section.weight)


def _sampler(section: QueriesSection, dataset: DetectionDataset) -> QuerySampler:
    return QuerySampler(
        dataset.names,
        name_counts(dataset),
        exhaustive=dataset.exhaustive,
        negatives=section.negatives,
        random_negatives=section.random_negatives,
        max_queries=section.max_queries,
        templates=section.templates,
        canonicalize=section.canonicalize,
    )


def _read(
    data: DataSection,
    section: EvaluationSetSection,
    *,
    key: str,
    exhaustive: bool | None = None,
    merge_repeated: bool = True,
) -> DetectionDataset:
    paths = _paths(section, key=key)
    dataset = read_coco(
        paths.annotations,
        paths.images,
        exhaustive=exhaustive,
        crowd=data.crowd,
        check=data.check,
        max_images=section.max_images,
        merge_repeated=merge_repeated,
        settings=paths.settings,
    )
    if not any(len(image.boxes) for image in dataset.images):
        raise DatasetError(
            f"{key}.annotations: expected at least one box, found 0 in {len(dataset.images)} "
            f"images, {paths.annotations}"
        )
    return dataset


def _batch_maker(
    config: DetectorConfig, examples: DetectionExamples, accelerator: Accelerator
) -> Callable[[int], Iterable[DetectionBatch]]:
    queries = config.data.queries

    def make_batches(start_step: int) -> Iterable[DetectionBatch]:
        return build_loader(
            examples,
            batch_plan(config.train, accelerator, start_step),
            workers=config.data.workers,
            pin_memory=accelerator.device.type == "cuda",
            collate=partial(collate, padding=queries.padding, max_queries=queries.max_queries),
        )

    return make_batches


def _build_evaluation(
    config: DetectorConfig, folder: Path, accelerator: Accelerator
) -> Evaluation | None:
    """Measures on the validation data set, and draws its first images; None without one."""
    section = config.data.val
    if section.annotations is None:
        return None
    # Each image keeps its id, which the truth knows it by.
    dataset = _read(config.data, section, key="data.val", merge_repeated=False)
    split = None
    if config.eval.split is not None:
        split = expanded(config.eval.split, key="eval.split", expected="a JSON file")
    truth = read_truth(
        _paths(section, key="data.val").annotations,
        split=split,
        settings=("data.val.annotations", "eval.split"),
    )
    images = dataset.images
    names, category_ids = list(truth.names.values()), list(truth.names)
    settings = PredictionSettings(
        templates=config.eval.templates,
        canonicalize=config.data.queries.canonicalize,
        top_k=config.eval.top_k,
        nms_iou=config.eval.nms_iou,
        batch_size=config.eval.batch_size,
    )

    def measure(detector: OwlDetector, step: int) -> Mapping[str, float]:
        found = predict_results(detector, images, names, category_ids, settings=settings)
        if not accelerator.is_main_process:
            return {}
        shown = images[: config.eval.sample_images]
        pictures = detect_images(detector, shown, names, settings=settings)
        draw_samples(pictures, dataset.names, folder / "samples" / f"step_{step:06d}")
        return truth.measure(found.results, image_ids=[image.id for image in images]).metrics

    return Evaluation(measure)
