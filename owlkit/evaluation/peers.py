"""The same curves by pycocotools, the reference, and by faster-coco-eval.

Both get fresh records made of the arrays that owlkit itself evaluates: what the caller passed in is
not touched, and ids start from 1, because both take an annotation id of 0 for "not found".
"""

import contextlib
import io
from collections.abc import Callable
from typing import Any

from owlkit.errors import MissingDependencyError
from owlkit.evaluation.curves import RECALLS, Curves
from owlkit.evaluation.inputs import Found, Objects, Problem
from owlkit.evaluation.matching import AREAS, THRESHOLDS


def peer_curves(
    problem: Problem, backend: str, *, limits: tuple[int, ...], class_agnostic: bool = False
) -> Curves:
    """Evaluates with another package.

    Args:
        problem: Ground truth and detections.
        backend: `pycocotools` or `faster-coco-eval`.
        limits: Most detections of an image and class, ascending (M).
        class_agnostic: Whether all categories count as one.

    Returns:
        Its curves; K = 1 if ``class_agnostic``.

    Raises:
        MissingDependencyError: If the package is not installed.
    """
    coco, coco_eval = _load(backend)
    # pycocotools prints, and offers no way not to.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = coco_eval(
            _dataset(coco, problem, _object_records(problem.objects)),
            _dataset(coco, problem, _found_records(problem.found)),
            iouType="bbox",
        )
        settings = evaluation.params
        settings.imgIds = list(range(1, len(problem.images) + 1))
        settings.catIds = list(range(1, len(problem.categories) + 1))
        settings.useCats = int(not class_agnostic)
        settings.maxDets = list(limits)
        settings.areaRng, settings.areaRngLbl = [list(area) for area in AREAS.values()], [*AREAS]
        settings.iouThrs, settings.recThrs = THRESHOLDS, RECALLS
        evaluation.evaluate()
        evaluation.accumulate()
    found = evaluation.eval
    return Curves(
        precision=found["precision"][..., -1],
        scores=found["scores"][..., -1],
        recall=found["recall"],
    )


def _load(backend: str) -> tuple[Callable[[], Any], Callable[..., Any]]:
    """The classes of the package that hold a data set and evaluate."""
    try:
        if backend == "pycocotools":
            from pycocotools.coco import COCO  # type: ignore[import-untyped]
            from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]
        else:
            from faster_coco_eval import COCO  # type: ignore[import-untyped]
            from faster_coco_eval import COCOeval_faster as COCOeval
    except ImportError as error:
        raise MissingDependencyError(
            f"the backend {backend!r} needs a package of that name: pip install 'owlkit[train]'"
        ) from error
    return COCO, COCOeval


def _dataset(coco: Callable[[], Any], problem: Problem, records: list[dict[str, Any]]) -> Any:
    dataset = coco()
    dataset.dataset = {
        "images": [{"id": index + 1} for index in range(len(problem.images))],
        "categories": [{"id": index + 1} for index in range(len(problem.categories))],
        "annotations": records,
    }
    dataset.createIndex()
    return dataset


def _object_records(objects: Objects) -> list[dict[str, Any]]:
    columns = (
        (objects.image + 1).tolist(),
        (objects.category + 1).tolist(),
        objects.boxes.tolist(),
        objects.areas.tolist(),
        objects.crowd.astype(int).tolist(),
    )
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    return _records(keys, columns)


def _found_records(found: Found) -> list[dict[str, Any]]:
    columns = (
        (found.image + 1).tolist(),
        (found.category + 1).tolist(),
        found.boxes.tolist(),
        found.areas.tolist(),
        found.scores.tolist(),
    )
    return _records(("image_id", "category_id", "bbox", "area", "score"), columns)


def _records(keys: tuple[str, ...], columns: tuple[list[Any], ...]) -> list[dict[str, Any]]:
    return [
        {"id": index + 1, **dict(zip(keys, row, strict=True))}
        for index, row in enumerate(zip(*columns, strict=True))
    ]
