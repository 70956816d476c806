"""What all images of one call are asked, and what counts as an answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from owlkit.calibration import Calibration
from owlkit.detections import Detections
from owlkit.errors import QueryError
from owlkit.postprocess import postprocess
from owlkit.queries import QuerySet
from owlkit.queries.compiled import CompiledQueries, Score
from owlkit.selection import Selection, Threshold

DEFAULT_THRESHOLD = 0.1
"""Where neither the caller, nor the class, nor the model says what score is enough."""


@dataclass(frozen=True, eq=False)
class Question:
    """A query set with all that turns its logits into detections.

    Attributes:
        queries: The classes.
        vectors: What is multiplied with patches for them.
        selection: Which pairs of a box and a class become detections.
        calibrations: What turns the logits of each class into probabilities; None for the sigmoid
            everywhere.
    """

    queries: QuerySet
    vectors: CompiledQueries
    selection: Selection
    calibrations: tuple[Calibration | None, ...] | None

    @classmethod
    def of(
        cls,
        queries: QuerySet,
        vectors: CompiledQueries,
        selection: Selection,
        *,
        threshold: Threshold | None,
        model_threshold: float | None,
        model_calibration: Calibration | None,
    ) -> "Question":
        """Fills in what a class does not say by itself.

        Args:
            queries: The classes.
            vectors: Of them.
            selection: What the caller wants; its threshold is not used.
            threshold: The caller's; None for each class's own.
            model_threshold: For classes that have none; None for :data:`DEFAULT_THRESHOLD`.
            model_calibration: For classes that have none.

        Raises:
            QueryError: If there is neither one threshold, nor one for each class.
        """
        if threshold is None:
            default = DEFAULT_THRESHOLD if model_threshold is None else model_threshold
            threshold = [
                default if one.threshold is None else one.threshold for one in queries.classes
            ]
        selection = replace(selection, threshold=threshold)
        limits = selection.threshold
        if isinstance(limits, tuple) and len(limits) != len(queries):
            raise QueryError(
                f"expected {len(queries)} thresholds, one per query, found {len(limits)}"
            )
        calibrations = tuple(one.calibration or model_calibration for one in queries.classes)
        return cls(queries, vectors, selection, calibrations if any(calibrations) else None)

    def part(self, names: Sequence[str]) -> "Question":
        """The same question about some of the classes."""
        rows = [self.queries.row(name) for name in names]
        selection, calibrations = self.selection, self.calibrations
        if isinstance(selection.threshold, tuple):
            limits = [selection.threshold[row] for row in rows]
            selection = replace(selection, threshold=limits)
        return Question(
            queries=self.queries.subset(names),
            vectors=self.vectors.of_classes(rows),
            selection=selection,
            calibrations=calibrations and tuple(calibrations[row] for row in rows),
        )

    def answer(
        self,
        score: Score,
        boxes: NDArray[np.float32],
        *,
        image_size: tuple[int, int],
        source: object,
    ) -> Detections:
        """Detections in one image.

        Args:
            score: Gives the logits of vectors on its patches, see :meth:`CompiledQueries.logits`.
            boxes: xyxy in pixels of the original image [P, 4].
            image_size: Its height and width.
            source: The image as it was given.
        """
        return postprocess(
            self.vectors.logits(score),
            boxes,
            names=self.queries.names,
            image_size=image_size,
            selection=self.selection,
            calibrations=self.calibrations,
            source=source,
        )
