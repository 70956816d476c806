"""Detections in labelled images, each known to be right or wrong: what scores are calibrated on.

Shapes: N detections, G objects, C classes.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owlkit.calibration import Calibration
from owlkit.data.coco import ImageRecord
from owlkit.detections import Detections
from owlkit.errors import ConfigError, DatasetError, ImageError, QueryError
from owlkit.evaluation.inputs import Found, Problem, read_problem
from owlkit.evaluation.matching import THRESHOLDS, make_cells, match_cells
from owlkit.evaluation.truth import Truth
from owlkit.images import load_image
from owlkit.queries import QuerySet

LOWEST_SCORE = 0.001
"""Uncalibrated scores that are not above this tell nothing about a detector and are left out."""

# A float32 score next to 1 has no logit of its own. A quarter of the logit leaves room to 66, and
# changes no order.
_PROBE = Calibration.linear(0.25)

Detect = Callable[[list[NDArray[np.uint8]]], list[Detections]]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CalibrationPairs:
    """Detections and objects of a labelled set.

    Attributes:
        names: Of the classes that were asked for (C).
        image_ids: Where each detection is [N].
        labels: Its class, an index into ``names`` [N].
        logits: Its uncalibrated logit, float64 [N].
        is_true: Whether it took an object, as COCO matches them [N].
        object_image_ids: Where each object is that could be found; crowds cannot [G].
        object_labels: Its class [G].
    """

    names: tuple[str, ...]
    image_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]
    is_true: NDArray[np.bool_]
    object_image_ids: NDArray[np.int64]
    object_labels: NDArray[np.int64]

    def among(self, image_ids: Iterable[int]) -> "CalibrationPairs":
        """The part of these images."""
        ids = np.array(sorted(image_ids), np.int64)
        kept, objects = np.isin(self.image_ids, ids), np.isin(self.object_image_ids, ids)
        return replace(
            self,
            image_ids=self.image_ids[kept],
            labels=self.labels[kept],
            logits=self.logits[kept],
            is_true=self.is_true[kept],
            object_image_ids=self.object_image_ids[objects],
            object_labels=self.object_labels[objects],
        )

    def object_counts(self) -> NDArray[np.int64]:
        """How many objects of each class there are [C]."""
        return np.bincount(self.object_labels, minlength=len(self.names))


def probe_queries(queries: QuerySet) -> tuple[QuerySet, float]:
    """The same queries, asked so that logits can be read off the scores.

    A quarter of each logit is scored: float32 numbers tell the scores of logits above 16.6 from 1
    no longer, while their quarter leaves room to 66. The order of scores stays.

    Args:
        queries: Whatever calibrations and thresholds they have do not count.

    Returns:
        The queries to detect with, and the threshold that stands for :data:`LOWEST_SCORE`.

    Raises:
        QueryError: If two classes have one name, or one is a part of another: how often parts are
            right depends on the boxes that they are looked for in.
    """
    nested = [one.name for one in queries.classes if one.parent is not None]
    if nested:
        raise QueryError(
            f"expected classes that are looked for in whole images, found {nested[0]!r}, a part; "
            "calibrate a query set without parts"
        )
    for name, times in Counter(queries.names).items():
        if times > 1:
            raise QueryError(f"expected classes with different names, found {name!r} {times} times")
    probes = queries.subset(queries.names)
    for name in probes.names:
        probes.update(name, calibration=_PROBE)
    lowest_logit = np.log(LOWEST_SCORE / (1 - LOWEST_SCORE))
    return probes, float(_PROBE.probabilities(np.array([lowest_logit], np.float32))[0])


def half_of(image_id: int) -> int:
    """Which half of a data set an image belongs to, 0 or 1: by its id alone, as if by chance."""
    return blake2b(str(image_id).encode(), digest_size=1).digest()[0] & 1


def collect_pairs(
    detect: Detect,
    records: Sequence[ImageRecord],
    truth: Truth,
    names: Sequence[str],
    *,
    iou: float = 0.5,
    batch_size: int = 8,
    on_image: Callable[[], None] = lambda: None,
) -> CalibrationPairs:
    """Detects in labelled images and tells right from wrong by COCO's matching.

    Within an image and class each detection, best first, takes the free object that it overlaps
    most. What takes a crowd is neither right nor wrong and is left out; so is, in LVIS's files,
    what nobody looked for: a class neither among the image's objects nor verified absent, and what
    is no object of a class that is annotated only in part.

    Args:
        detect: Finds the classes of ``names`` in a list of images, with the queries and threshold
            of :func:`probe_queries`; labels are indices into ``names``.
        records: The images. One that cannot be read is logged and left out.
        truth: The annotations.
        names: What is asked for; of what is no category of the annotations there are neither
            detections nor objects.
        iou: Overlap from which a detection is right: 0.5, 0.55 ... 0.95.
        batch_size: Images that are given to ``detect`` at a time.
        on_image: Called after each image, for progress.

    Raises:
        ConfigError: If ``iou`` is none of those.
        DatasetError: If no name is a category, or no image can be read.
    """
    bit = _threshold_bit(iou)
    wanted = set(names)
    category_ids = [key for key, name in truth.names.items() if name in wanted]
    if not category_ids:
        raise DatasetError(
            f"expected queries with names of the annotations' categories, found "
            f"{', '.join(list(names)[:5])} where those are {', '.join([*truth.names.values()][:5])}"
        )
    found = dict(_detect_all(detect, records, batch_size, on_image))
    if not found:
        raise DatasetError(f"expected images, found none of {len(records)} that can be read")
    problem = read_problem(truth.content, [], image_ids=found, category_ids=category_ids)
    label_of_place = np.array(
        [names.index(truth.names[key]) for key in problem.category_ids], np.int64
    )
    place_of_label = np.full(len(names), -1)
    place_of_label[label_of_place] = np.arange(len(label_of_place))
    # The problem has its images by ascending id.
    rows = [_rows(found[key], place, place_of_label) for place, key in enumerate(sorted(found))]
    merged = Found(*(np.concatenate(column) for column in zip(*rows, strict=True)))
    objects = problem.objects
    if truth.is_federated:
        # LVIS has no crowds.
        objects = replace(objects, crowd=np.zeros_like(objects.crowd))
    problem = replace(problem, found=merged, objects=objects)
    return _judge(problem, bit, tuple(names), label_of_place, federated=truth.is_federated)


def _threshold_bit(iou: float) -> int:
    bits = np.flatnonzero(np.abs(THRESHOLDS - iou) < 1e-9)
    if not bits.size:
        raise ConfigError(f"iou: expected one of 0.5, 0.55 ... 0.95, found {iou}")
    return int(bits[0])


def _detect_all(
    detect: Detect,
    records: Sequence[ImageRecord],
    batch_size: int,
    on_image: Callable[[], None],
) -> Iterable[tuple[int, Detections]]:
    """Image ids with what was found there, batch by batch."""
    for start in range(0, len(records), batch_size):
        images = {}
        for record in records[start : start + batch_size]:
            try:
                images[record.id] = load_image(record.path)
            except ImageError as error:
                _logger.warning("calibrating without an image that cannot be read: %s", error)
            on_image()
        found = detect(list(images.values())) if images else []
        yield from zip(images, (one.without_source() for one in found), strict=True)


def _rows(
    found: Detections, image: int, place_of_label: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Image, category, xywh box and logit of what counts in one image."""
    place = place_of_label[found.labels]
    counts = place >= 0
    corners, scores = found.boxes[counts].astype(np.float64), found.scores[counts]
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    # 1 itself would be an infinite logit.
    score = np.minimum(scores.astype(np.float64), 1 - 2.0**-25)
    logits = (np.log(score) - np.log1p(-score)) / 0.25
    return np.full(len(boxes), image), place[counts], boxes, logits


def _judge(
    problem: Problem,
    bit: int,
    names: tuple[str, ...],
    label_of_place: NDArray[np.int64],
    *,
    federated: bool,
) -> CalibrationPairs:
    cells = make_cells(problem, max_detections=None)
    matches = match_cells(cells)
    taken, void = ((part[:, 0] >> bit & 1).astype(bool) for part in (matches.taken, matches.void))
    counts = ~void
    if federated:
        counts &= _looked_for(problem, cells.found.image, cells.found.category, taken)
    image_ids = np.array([image["id"] for image in problem.images], np.int64)
    found, objects = cells.found, problem.objects
    objects = objects.take(~objects.crowd)
    return CalibrationPairs(
        names=names,
        image_ids=image_ids[found.image[counts]],
        labels=label_of_place[found.category[counts]],
        logits=found.scores[counts],
        is_true=taken[counts],
        object_image_ids=image_ids[objects.image],
        object_labels=label_of_place[objects.category],
    )


def _looked_for(
    problem: Problem,
    image: NDArray[np.int64],
    category: NDArray[np.int64],
    taken: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Which detections an LVIS file can judge [N]."""
    place = {key: index for index, key in enumerate(problem.category_ids)}
    width = len(place)

    def listed(key: str) -> NDArray[np.int64]:
        cells = [
            number * width + place[one]
            for number, record in enumerate(problem.images)
            for one in record.get(key) or ()
            if one in place
        ]
        return np.array(cells, np.int64)

    cell = image * width + category
    annotated = problem.objects.image * width + problem.objects.category
    known = np.isin(cell, np.concatenate([annotated, listed("neg_category_ids")]))
    partly = np.isin(cell, listed("not_exhaustive_category_ids"))
    return np.asarray(known & (taken | ~partly))
