"""COCO's box metrics: average precision and recall over ten overlap thresholds.

- [0]: Microsoft COCO: Common Objects in Context, 2014, https://arxiv.org/abs/1405.0312

Shapes: K categories, T = 10 overlap thresholds (IoU 0.50, 0.55 ... 0.95), R = 101 recalls.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import ConfigError, DatasetError
from owlkit.evaluation.curves import Curves, trace_curves
from owlkit.evaluation.inputs import GroundTruth, Problem, Results, read_problem
from owlkit.evaluation.matching import make_cells, match_cells
from owlkit.evaluation.peers import peer_curves
from owlkit.evaluation.summary import (
    class_metrics,
    mean_defined,
    precision_metrics,
    recall_metrics,
)

Backend = Literal["auto", "owlkit", "pycocotools", "faster-coco-eval"]
BACKENDS = ("auto", "owlkit", "pycocotools", "faster-coco-eval")


@dataclass(frozen=True, eq=False)
class BoxMetrics:
    """What an evaluation found. -1 stands wherever there was no object to find.

    Attributes:
        metrics: The summary, in [0, 1]: for COCO `AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm
            ARl`, with another limit than 100 in the name if another was asked for.
        per_class: Category id to `AP AP50 AP75 APs APm APl` and the recall (`AR100`). Empty if
            class-agnostic.
        precision: At each recall, objects of all sizes, most detections [T, R, K].
        scores: Of the detection at which each recall is reached; 0 where it never is [T, R, K].
        category_ids: Ascending; those of the last axis of the arrays (K), unless class-agnostic,
            where that axis has one entry for all.
        settings: How it was measured, ready for JSON: `backend`, `max_detections`, ...
    """

    metrics: dict[str, float]
    per_class: dict[int, dict[str, float]]
    precision: NDArray[np.float64]
    scores: NDArray[np.float64]
    category_ids: tuple[int, ...]
    settings: dict[str, Any]


def evaluate_boxes(
    ground_truth: GroundTruth,
    results: Results,
    *,
    backend: Backend = "auto",
    max_detections: int = 100,
    image_ids: Iterable[int] | None = None,
    category_ids: Iterable[int] | None = None,
    class_agnostic: bool = False,
) -> dict[str, float]:
    """The COCO numbers of a set of detections, by name.

    Args:
        ground_truth: As of :func:`measure_boxes`, like all further arguments.
        results: See there.
        backend: See there.
        max_detections: See there.
        image_ids: See there.
        category_ids: See there.
        class_agnostic: See there.

    Returns:
        `AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl` in [0, 1], -1 where undefined.

    Raises:
        DatasetError: See there, like all others.

    Example:
        >>> box = {"image_id": 7, "category_id": 2, "bbox": [10, 10, 50, 40]}
        >>> truth = {"images": [{"id": 7}], "categories": [{"id": 2}], "annotations": [box]}
        >>> round(evaluate_boxes(truth, [box | {"score": 0.9}])["AP"], 6)
        1.0
    """
    return measure_boxes(
        ground_truth,
        results,
        backend=backend,
        max_detections=max_detections,
        image_ids=image_ids,
        category_ids=category_ids,
        class_agnostic=class_agnostic,
    ).metrics


def measure_boxes(
    ground_truth: GroundTruth,
    results: Results,
    *,
    backend: Backend = "auto",
    max_detections: int = 100,
    image_ids: Iterable[int] | None = None,
    category_ids: Iterable[int] | None = None,
    class_agnostic: bool = False,
) -> BoxMetrics:
    """COCO metrics with what they were made of.

    The order of the results matters where scores are equal: the earlier is the better. Prints
    nothing and changes nothing that it is given.

    Args:
        ground_truth: A COCO dictionary, or the path of its JSON file. `area` decides on the size
            class of an object; where it is missing, the box does.
        results: A list of dictionaries with `image_id`, `category_id`, `bbox` (xywh pixels) and
            `score`, or the path of its JSON file. An empty list is a detector that finds nothing.
        backend: `owlkit` evaluates all images at once, and is what `auto` takes; `pycocotools` is
            the reference, `faster-coco-eval` a third opinion. All give the same numbers.
        max_detections: The best so many of each image and category count.
        image_ids: Measure on these images only; None for all.
        category_ids: Measure these categories only; None for all.
        class_agnostic: Whether a box of any category may find an object of any other.

    Returns:
        Summary, numbers of each class, and precision-recall curves.

    Raises:
        DatasetError: If either side cannot be read or used; names the entry. An id in the results
            that the ground truth does not have is an error too.
        ConfigError: If ``backend`` or ``max_detections`` is none of the above.
        MissingDependencyError: If the package of the backend is not installed.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend: expected one of {', '.join(BACKENDS)}, found {backend!r}")
    limits = _recall_limits(max_detections)
    problem = read_problem(ground_truth, results, image_ids=image_ids, category_ids=category_ids)
    chosen = "owlkit" if backend == "auto" else backend
    if chosen == "owlkit":
        curves = _own_curves(problem, limits, class_agnostic)
    else:
        curves = peer_curves(problem, chosen, limits=limits, class_agnostic=class_agnostic)
    recalls = [f"AR{limit}" for limit in limits]
    ids = problem.category_ids
    return BoxMetrics(
        metrics=precision_metrics(curves.precision) | recall_metrics(curves.recall, recalls),
        per_class={} if class_agnostic else class_metrics(curves, ids, recalls[-1]),
        precision=curves.precision[..., 0],
        scores=curves.scores[..., 0],
        category_ids=ids,
        settings={
            "backend": chosen,
            "max_detections": max_detections,
            "class_agnostic": class_agnostic,
            "images": len(problem.images),
            "detections": len(problem.found.scores),
        },
    )


def split_metrics(
    measured: BoxMetrics, base_ids: Collection[int], novel_ids: Collection[int]
) -> dict[str, float]:
    """Base and novel categories apart, as open-vocabulary detection is reported [1].

    - [1]: Open-Vocabulary Object Detection Using Captions, 2021, https://arxiv.org/abs/2011.10678

    Args:
        measured: Of :func:`measure_boxes` or `measure_lvis`.
        base_ids: Ids of the categories whose boxes were seen in training.
        novel_ids: Ids of those whose boxes were not.

    Returns:
        `AP_base AP50_base AP_novel AP50_novel`, each the mean over those of the categories that
        have objects; -1 if none has.

    Raises:
        DatasetError: If an id is in both sets, or was not measured.
    """
    both = sorted(set(base_ids) & set(novel_ids))
    unknown = sorted({*base_ids, *novel_ids} - set(measured.per_class))
    if both or unknown:
        fault = f"{both} in both" if both else f"{unknown}, which were not measured"
        raise DatasetError(f"split: expected measured category ids, base or novel; found {fault}")
    return {
        f"{name}_{part}": mean_defined(np.array([measured.per_class[key][name] for key in ids]))
        for part, ids in (("base", base_ids), ("novel", novel_ids))
        for name in ("AP", "AP50")
    }


def _own_curves(problem: Problem, limits: tuple[int, ...], class_agnostic: bool) -> Curves:
    cells = make_cells(problem, max_detections=limits[-1], class_agnostic=class_agnostic)
    classes = 1 if class_agnostic else len(problem.categories)
    return trace_curves(cells, match_cells(cells), classes=classes, limits=limits)


def _recall_limits(max_detections: int) -> tuple[int, ...]:
    """1, 10 and the most, ascending; what is above the most is left out."""
    if not isinstance(max_detections, int) or max_detections < 1:
        raise ConfigError(f"max_detections: expected an integer >= 1, found {max_detections!r}")
    return (*(limit for limit in (1, 10) if limit < max_detections), max_detections)
