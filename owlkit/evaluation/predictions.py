"""Runs a detector over a data set, as COCO results.

Shapes: B images, P patches, Q classes, E embedding width.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from owlkit.data.coco import ImageRecord
from owlkit.data.image_check import MAX_LOST
from owlkit.data.queries import fill_unless_marked, spell_names
from owlkit.detections import Detections
from owlkit.errors import ConfigError, DatasetError, ImageError
from owlkit.evaluation.best import BestOfClasses
from owlkit.geometry import ImageTransform
from owlkit.images import load_image
from owlkit.models import OwlDetector
from owlkit.models.heads import score_queries, unit_embeddings
from owlkit.ops import cxcywh_to_xyxy
from owlkit.postprocess import Selection, postprocess
from owlkit.prompts import resolve_templates

# NMS over every pair of a box and a class would take minutes; below this score nothing counts.
_LOWEST_SCORE_FOR_NMS = 0.001
# Preprocessing runs beside the model; images wait for it, not the other way round.
_PREPROCESSING_THREADS = 4

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictions:
    """What a detector found in a data set.

    Attributes:
        results: Entries of a COCO results file, in the order of the images.
        unreadable: Files that could not be read, of which there are no results.
    """

    results: list[dict[str, Any]]
    unreadable: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Prepared:
    """One image as the model takes it."""

    record: ImageRecord
    pixels: NDArray[np.float32]
    transform: ImageTransform


@dataclass(frozen=True)
class PredictionSettings:
    """How a detector is asked for the classes of a data set.

    Attributes:
        templates: Name of the prompt templates, see :data:`owlkit.prompts.TEMPLATES`; the mean of
            their logits counts, as in OWL-ViT's evaluation.
        canonicalize: Ask in lower case and without punctuation, as OWL-ViT was trained.
        top_k: Most detections per image, the best (box, class) pairs; no threshold. None for all.
        per_class: Most detections of each class over the images that one process looks at, the
            best; None for all. With ``top_k=None`` it is what fixed AP is defined on.
        nms_iou: Overlap above which the lower of two boxes of one class goes; None, as published,
            for no suppression.
        batch_size: Images per pass, at least 1.
        selection: Which pairs of a box and a class become results; follows from the others.

    Raises:
        ConfigError: If the batch size or ``per_class`` is less than 1.
        QueryError: If another value is out of its range, or there are no such templates.
    """

    templates: str = "ensemble7"
    canonicalize: bool = True
    top_k: int | None = 300
    per_class: int | None = None
    nms_iou: float | None = None
    batch_size: int = 8
    selection: Selection = field(init=False)

    def __post_init__(self) -> None:
        # Now, and not after hours of training, when it is first needed.
        if self.batch_size < 1:
            raise ConfigError(f"expected a batch size of at least 1, found {self.batch_size}")
        if self.per_class is not None and self.per_class < 1:
            raise ConfigError(f"expected per_class of at least 1, found {self.per_class}")
        resolve_templates(self.templates)
        threshold = 0.0 if self.nms_iou is None else _LOWEST_SCORE_FOR_NMS
        selection = Selection(threshold=threshold, nms_iou=self.nms_iou, top_k=self.top_k)
        object.__setattr__(self, "selection", selection)


@torch.inference_mode()
def embed_classes(
    detector: OwlDetector, names: Sequence[str], settings: PredictionSettings
) -> Tensor:
    """One vector per class, the mean of its prompts' unit vectors [Q, E].

    Args:
        detector: With a tokenizer.
        names: Q class names; "#" in front asks for the name without a template, as in training.
        settings: Templates and spelling.

    Raises:
        DatasetError: If nothing is left of a name in that spelling.
    """
    templates = resolve_templates(settings.templates)
    prompts = [
        fill_unless_marked(template, name, canonical=settings.canonicalize)
        for name in spell_names(names, canonicalize=settings.canonicalize)
        for template in templates
    ]
    units = unit_embeddings(detector.encode_strings(prompts).float())
    return units.reshape(len(names), len(templates), -1).mean(dim=1)


@torch.inference_mode()
def detect_images(
    detector: OwlDetector,
    images: Sequence[ImageRecord],
    names: Sequence[str],
    *,
    settings: PredictionSettings,
    thresholds: NDArray[np.float32] | None = None,
) -> Iterator[tuple[ImageRecord, Detections]]:
    """Detects all classes in all images, in order; an image that cannot be read is left out.

    Args:
        detector: In evaluation mode, on any device.
        images: What to look at.
        names: Q class names.
        settings: Prompts, selection and batch size.
        thresholds: Scores must be above those of their class [Q]. Looked at again for each image,
            so that they may rise on the way; None for those of the settings.

    Yields:
        Each image with its detections; their labels are indices into ``names``. What cannot be
        read is logged.
    """
    vectors = embed_classes(detector, names, settings)
    device = vectors.device
    for batch in _batches(detector, images, settings.batch_size):
        pixels = torch.from_numpy(np.stack([part.pixels for part in batch])).to(device)
        features = detector.encode_images(pixels)
        # The means are scored as they are: making them unit vectors would undo the mean of logits.
        logits = score_queries(
            features.class_embeds, features.logit_shift, features.logit_scale, vectors
        )
        boxes = cxcywh_to_xyxy(features.boxes).cpu().numpy()
        for row, part in enumerate(batch):
            selection = settings.selection
            if thresholds is not None:
                selection = replace(selection, threshold=thresholds)
            found = postprocess(
                logits[row].cpu().numpy(),
                part.transform.invert(boxes[row]),
                names=names,
                image_size=part.transform.image_size,
                selection=selection,
                source=part.record.path,
            )
            yield part.record, found


def predict_results(
    detector: OwlDetector,
    images: Sequence[ImageRecord],
    names: Sequence[str],
    category_ids: Sequence[int],
    *,
    settings: PredictionSettings,
    on_image: Callable[[], None] = lambda: None,
) -> Predictions:
    """Detects all classes in all images, as entries of a COCO results file.

    Where several processes work together, each takes its share of the images; the first one gets
    all results, in the order of the images, and the others none.

    Args:
        detector: In evaluation mode, on any device.
        images: What to look at.
        names: Q class names.
        category_ids: COCO category id of each class.
        settings: Prompts, selection and batch size.
        on_image: Called after each image of this process, for progress.

    Raises:
        DatasetError: In all processes, if more than one image and more than 1 % cannot be read. A
            few are logged, counted, and have no results.
    """
    rank, world = _place_in_group()
    mine = images[rank::world]
    found = _detect_best(detector, mine, names, settings=settings, on_image=on_image)
    unreadable = [str(record.path) for record in mine if record.id not in found]
    entries = [
        found[record.id].to_coco(record.id, category_ids) if record.id in found else []
        for record in mine
    ]
    lost, parts = [unreadable], [entries]
    if world > 1:
        lost = [[] for _ in range(world)]
        torch.distributed.all_gather_object(lost, unreadable)
        # Results are large: one process holds them all, not each one.
        parts = [[] for _ in range(world)]
        torch.distributed.gather_object(entries, parts if rank == 0 else None)
    everywhere = tuple(path for part in lost for path in part)
    _stop_if_too_many_are_lost(everywhere, len(images))
    if rank > 0:
        return Predictions([], everywhere)
    results = [
        result for index in range(len(images)) for result in parts[index % world][index // world]
    ]
    return Predictions(results, everywhere)


def _detect_best(
    detector: OwlDetector,
    images: Sequence[ImageRecord],
    names: Sequence[str],
    *,
    settings: PredictionSettings,
    on_image: Callable[[], None],
) -> dict[int, Detections]:
    """What counts of each readable image, by its id."""
    thresholds = np.full(len(names), settings.selection.threshold, np.float32)
    best = None
    if settings.per_class is not None:
        best = BestOfClasses(thresholds, settings.per_class)
    ids, found = [], []
    for record, detections in detect_images(
        detector, images, names, settings=settings, thresholds=thresholds
    ):
        ids.append(record.id)
        if best is None:
            found.append(detections.without_source())
        else:
            best.add(detections.without_source())
        on_image()
    return dict(zip(ids, found if best is None else best.finish(), strict=True))


def _stop_if_too_many_are_lost(unreadable: Sequence[str], count: int) -> None:
    if len(unreadable) > 1 and len(unreadable) > MAX_LOST * count:
        raise DatasetError(
            f"expected images to measure on, of which at most {MAX_LOST:.0%} cannot be read; found "
            f"that {len(unreadable)} of {count} cannot, among them {', '.join(unreadable[:3])}"
        )


def _place_in_group() -> tuple[int, int]:
    """Rank and number of the processes that work together."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _batches(
    detector: OwlDetector, images: Sequence[ImageRecord], batch_size: int
) -> Iterator[list[_Prepared]]:
    """What can be read, in batches; the next one is made while the model works on this one."""

    def prepare(record: ImageRecord) -> _Prepared | None:
        try:
            return _Prepared(record, *detector.preprocessing(load_image(record.path)))
        except ImageError as error:
            _logger.warning("measuring without an image that cannot be read: %s", error)
            return None

    parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    with ThreadPoolExecutor(_PREPROCESSING_THREADS) as pool:
        waiting: list[list[Future[_Prepared | None]]] = []
        for index in range(len(parts) + 1):
            if index < len(parts):
                waiting.append([pool.submit(prepare, record) for record in parts[index]])
            if index > 0:
                prepared = [future.result() for future in waiting.pop(0)]
                if batch := [part for part in prepared if part is not None]:
                    yield batch
