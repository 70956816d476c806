"""LVIS's box metrics: COCO's on federated annotations, where not every class was looked for.

- [0]: LVIS: A Dataset for Large Vocabulary Instance Segmentation, 2019,
  https://arxiv.org/abs/1908.03195
- [1]: Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details, 2021,
  https://arxiv.org/abs/2102.01066

An image says which classes are verified absent (`neg_category_ids`) and which are annotated only in
part (`not_exhaustive_category_ids`). A detection of a class that is neither among its objects nor
absent is dropped: nobody knows whether it is right. One of a class annotated in part is not wrong
where it finds nothing. There are no crowds.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import ConfigError, DatasetError
from owlkit.evaluation.coco import BoxMetrics
from owlkit.evaluation.curves import trace_curves
from owlkit.evaluation.inputs import Found, GroundTruth, Problem, Record, Results, read_problem
from owlkit.evaluation.matching import make_cells, match_cells, place_in_run
from owlkit.evaluation.summary import (
    class_metrics,
    mean_defined,
    precision_metrics,
    recall_metrics,
)

FREQUENCIES = ("r", "c", "f")
"""Rare (1-10 training images), common (11-100) and frequent classes."""


def evaluate_lvis(
    ground_truth: GroundTruth,
    results: Results,
    *,
    max_detections: int = 300,
    fixed_ap: bool = False,
    detections_per_class: int = 10_000,
    image_ids: Iterable[int] | None = None,
    category_ids: Iterable[int] | None = None,
) -> dict[str, float]:
    """The LVIS numbers of a set of detections, by name.

    Args:
        ground_truth: As of :func:`measure_lvis`, like all further arguments.
        results: See there.
        max_detections: See there.
        fixed_ap: See there.
        detections_per_class: See there.
        image_ids: See there.
        category_ids: See there.

    Returns:
        `AP AP50 AP75 APs APm APl APr APc APf AR@300 ARs@300 ARm@300 ARl@300` in [0, 1], -1 where
        undefined; with ``fixed_ap`` `AP_fixed` ... `APf_fixed AR_fixed` ... `ARl_fixed`.

    Raises:
        DatasetError: See there, like all others.
    """
    return measure_lvis(
        ground_truth,
        results,
        max_detections=max_detections,
        fixed_ap=fixed_ap,
        detections_per_class=detections_per_class,
        image_ids=image_ids,
        category_ids=category_ids,
    ).metrics


def measure_lvis(
    ground_truth: GroundTruth,
    results: Results,
    *,
    max_detections: int = 300,
    fixed_ap: bool = False,
    detections_per_class: int = 10_000,
    image_ids: Iterable[int] | None = None,
    category_ids: Iterable[int] | None = None,
) -> BoxMetrics:
    """LVIS metrics with what they were made of.

    AP as LVIS defines it [0] lets an image's classes compete for its 300 detections, so that a
    detector gains by leaving out rare classes. Fixed AP [1] has no limit for an image; instead each
    class has its 10,000 best detections over all images, so that classes do not interact.

    Args:
        ground_truth: An LVIS dictionary, or the path of its JSON file. Images have
            `neg_category_ids` and `not_exhaustive_category_ids`, categories a `frequency`; where
            no category has one, `APr APc APf` are -1.
        results: As of :func:`owlkit.evaluation.measure_boxes`.
        max_detections: The best so many of each image count, over all classes, before anything is
            dropped. Not used by fixed AP.
        fixed_ap: Whether to compute fixed AP instead.
        detections_per_class: The best so many of each class count in fixed AP, over all images,
            before anything is dropped.
        image_ids: Measure on these images only; None for all.
        category_ids: Measure these categories only; None for all. Detections of others do not
            count for the limit of an image.

    Returns:
        Summary, numbers of each class, and precision-recall curves.

    Raises:
        DatasetError: If either side cannot be read or used; names the entry.
        ConfigError: If a limit is below 1.
    """
    limit = detections_per_class if fixed_ap else max_detections
    if not isinstance(limit, int) or limit < 1:
        name = "detections_per_class" if fixed_ap else "max_detections"
        raise ConfigError(f"{name}: expected an integer >= 1, found {limit!r}")
    problem = read_problem(ground_truth, results, image_ids=image_ids, category_ids=category_ids)
    if category_ids is not None:
        problem = replace(problem, images=_without_others(problem))
    frequencies = _frequencies(problem.categories)
    competitors = problem.found.category if fixed_ap else problem.found.image
    problem = replace(
        problem,
        objects=replace(problem.objects, crowd=np.zeros_like(problem.objects.crowd)),
        found=_best_of_each(problem.found, competitors, limit),
    )
    problem = replace(problem, found=_judgeable(problem))
    cells = make_cells(problem, max_detections=None)
    curves = trace_curves(
        cells,
        match_cells(cells),
        classes=len(problem.categories),
        limits=(None,),
        unjudged=np.isin(cells.found_cell, _listed_cells(problem, "not_exhaustive_category_ids")),
    )
    suffix = "_fixed" if fixed_ap else f"@{limit}"
    precisions = precision_metrics(curves.precision)
    for letter in FREQUENCIES:
        members = curves.precision[:, :, frequencies == letter, 0]
        precisions[f"AP{letter}"] = mean_defined(members)
    if fixed_ap:
        precisions = {f"{name}_fixed": value for name, value in precisions.items()}
    return BoxMetrics(
        metrics=precisions | recall_metrics(curves.recall, [f"AR{suffix}"], suffix),
        per_class=class_metrics(curves, problem.category_ids, f"AR{suffix}"),
        precision=curves.precision[..., 0],
        scores=curves.scores[..., 0],
        category_ids=problem.category_ids,
        settings={
            "backend": "owlkit",
            "fixed_ap": fixed_ap,
            "detections_per_class" if fixed_ap else "max_detections": limit,
            "images": len(problem.images),
            "detections": len(problem.found.scores),
        },
    )


def _best_of_each(found: Found, group: NDArray[np.int64], limit: int) -> Found:
    """The ``limit`` highest scores of each group, all in their given order."""
    order = np.lexsort((-found.scores, group))
    kept = order[place_in_run(group[order]) < limit]
    return found.take(np.sort(kept))


def _judgeable(problem: Problem) -> Found:
    """The detections whose class is among the objects of the image, or verified absent."""
    objects, found = problem.objects, problem.found
    categories = len(problem.categories)
    annotated = objects.image * categories + objects.category
    known = np.concatenate((annotated, _listed_cells(problem, "neg_category_ids")))
    return found.take(np.isin(found.image * categories + found.category, known))


def _without_others(problem: Problem) -> tuple[Record, ...]:
    """The images, their lists without the categories that are not measured."""
    measured = set(problem.category_ids)
    keys = ("neg_category_ids", "not_exhaustive_category_ids")
    return tuple(
        {**image, **{key: [c for c in image.get(key) or () if c in measured] for key in keys}}
        for image in problem.images
    )


def _listed_cells(problem: Problem, key: str) -> NDArray[np.int64]:
    """The cells (image and category) that the images list under ``key``."""
    place = {category: index for index, category in enumerate(problem.category_ids)}
    cells: list[int] = []
    for index, image in enumerate(problem.images):
        try:
            cells += [index * len(place) + place[category] for category in image.get(key) or ()]
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"image {image['id']}: expected {key!r} to list categories of the ground truth,"
                f" found {image[key]!r}"
            ) from error
    return np.array(cells, np.int64)


def _frequencies(categories: tuple[Record, ...]) -> NDArray[np.str_]:
    """The letter of each category [K]; empty strings where none has any."""
    letters = [category.get("frequency", "") for category in categories]
    if any(letters):
        for category, letter in zip(categories, letters, strict=True):
            if letter not in FREQUENCIES:
                raise DatasetError(
                    f"category {category['id']}: expected 'frequency' to be one of"
                    f" {', '.join(FREQUENCIES)}, found {letter!r}"
                )
    return np.array(letters, np.str_)
