"""A callback for `supervision.InferenceSlicer`, for people whose pipeline is built on it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from owlkit.queries import QuerySet


class Detector(Protocol):
    """What :class:`owlkit.Predictor` is."""

    def detect(self, images: Any, queries: QuerySet, /, **options: Any) -> Any:
        """Detections of one image, or a list of them for a list."""


def slicer_callback(
    predictor: Detector,
    queries: QuerySet | Sequence[str],
    *,
    bgr: bool = False,
    **options: Any,
) -> Callable[[Any], Any]:
    """Makes what `supervision.InferenceSlicer` calls for each slice, or batch of slices.

    ``sv.InferenceSlicer(slicer_callback(predictor, ["cat"]), slice_wh=960)(image)`` returns
    `supervision.Detections` of the image. It drops overlapping boxes, but knows nothing of boxes
    that a slice's edge cut; `owlkit.tiling` does.

    Args:
        predictor: An :class:`owlkit.Predictor`. Texts are encoded once.
        queries: What to find.
        bgr: Whether images hold blue first, as those that OpenCV reads; else they are RGB.
        **options: Of ``predictor.detect``, such as ``threshold``; ``templates`` and ``ensemble``
            for strings.

    Returns:
        A function of one slice [h, w, 3] that returns its `supervision.Detections`, or of a list
        of slices that returns a list.

    Raises:
        QueryError: If the queries cannot be used.
        MissingDependencyError: When called, if `supervision` is not installed.
    """
    if isinstance(queries, QuerySet):
        query_set = queries
    else:
        chosen = {key: options.pop(key) for key in ("templates", "ensemble") if key in options}
        query_set = QuerySet.from_text(queries, **chosen)

    def callback(slices: Any) -> Any:
        if isinstance(slices, list):
            found = predictor.detect([_as_rgb(one, bgr) for one in slices], query_set, **options)
            return [one.to_supervision() for one in found]
        return predictor.detect(_as_rgb(slices, bgr), query_set, **options).to_supervision()

    return callback


def _as_rgb(image: Any, bgr: bool) -> Any:
    return image[..., ::-1] if bgr and isinstance(image, np.ndarray) else image
