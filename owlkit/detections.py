"""What a detector found in one image, as plain numpy arrays with converters.

Shapes: N detections. Boxes are xyxy (x0, y0, x1, y1) in pixels of the original image.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from owlkit.errors import DetectionsError, MissingDependencyError

if TYPE_CHECKING:
    import supervision
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Detections:
    """The boxes found in one image, with one score, label and name each.

    Arrays are copied and converted to the stated types at birth.

    Attributes:
        boxes: xyxy in pixels of the original image, x0 <= x1 and y0 <= y1 [N, 4], float32.
        scores: Probability of the query on the box, in [0, 1] [N], float32.
        labels: Index of the query that found the box [N], int64.
        names: Name of the query that found the box, N strings.
        image_size: Height and width of the original image in pixels, or None if unknown.
        source: The image as the user gave it (path, URL, PIL image or array), for :meth:`plot`; not
            part of comparisons. An array or PIL image is kept by reference, not copied: it stays in
            memory, and a frame buffer that is used again shows its new content in plots. See
            :meth:`without_source`.
        track_ids: Which object of a video each box shows, -1 where that is not known [N], int64;
            None where nothing was tracked.
        parents: For each box, the row in these detections of the box that it is a part of, -1 for
            none [N], int64; None where no parts were looked for. Where rows are chosen, the
            numbers follow them, and a part whose parent is gone gets -1.

    Raises:
        DetectionsError: On a wrong shape or type, different lengths, a non-finite value, a box
            whose corners are swapped, a score outside [0, 1], a negative label, or a parent that
            is no other row.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    image_size: tuple[int, int] | None = None
    source: Any = field(default=None, repr=False)
    track_ids: NDArray[np.int64] | None = None
    parents: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        boxes = _floats("boxes", self.boxes)
        values: dict[str, object] = {
            "boxes": boxes.reshape(0, 4) if boxes.shape == (0,) else boxes,
            "scores": _floats("scores", self.scores),
            "labels": _integers("labels", self.labels),
            "names": _tuple_of_names(self.names),
            "image_size": _checked_size(self.image_size),
            "track_ids": _optional_integers("track_ids", self.track_ids),
            "parents": _optional_integers("parents", self.parents),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check_lengths()
        self._check_values()

    def _check_lengths(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise DetectionsError(f"expected boxes of shape [N, 4], found {list(self.boxes.shape)}")
        count = len(self.boxes)
        for name in ("scores", "labels", "track_ids", "parents"):
            values = getattr(self, name)
            if values is not None and values.shape != (count,):
                raise DetectionsError(
                    f"expected {name} of shape [{count}], one per box, found {list(values.shape)}"
                )
        if len(self.names) != count:
            raise DetectionsError(f"expected {count} names, one per box, found {len(self.names)}")

    def _check_values(self) -> None:
        x0, y0, x1, y1 = self.boxes.T
        faults: list[tuple[str, NDArray[Any], Any]] = [
            ("finite boxes", self.boxes, ~np.isfinite(self.boxes).all(axis=1)),
            ("boxes with x0 <= x1 and y0 <= y1", self.boxes, (x1 < x0) | (y1 < y0)),
            ("scores in [0, 1]", self.scores, ~((self.scores >= 0) & (self.scores <= 1))),
            ("labels of at least 0", self.labels, self.labels < 0),
        ]
        if self.track_ids is not None:
            faults.append(("track_ids of at least -1", self.track_ids, self.track_ids < -1))
        if self.parents is not None:
            parents, rows = self.parents, np.arange(len(self))
            bad = (parents < -1) | (parents >= len(rows)) | (parents == rows)
            faults.append(("parents that are other rows, or -1", parents, bad))
        for expected, values, bad in faults:
            if bad.any():
                row = int(bad.argmax())
                raise DetectionsError(f"expected {expected}, found {values[row]!s} at row {row}")
        for row, name in enumerate(self.names):
            if not isinstance(name, str):
                raise DetectionsError(f"expected names to be strings, found {name!r} at row {row}")

    @classmethod
    def empty(cls, image_size: tuple[int, int] | None = None) -> "Detections":
        """No detections, in an image of the given height and width."""
        return cls(
            boxes=np.zeros((0, 4), dtype=np.float32),
            scores=np.zeros(0, dtype=np.float32),
            labels=np.zeros(0, dtype=np.int64),
            names=(),
            image_size=image_size,
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        return (
            np.array_equal(self.boxes, other.boxes)
            and np.array_equal(self.scores, other.scores)
            and np.array_equal(self.labels, other.labels)
            and self.names == other.names
            and self.image_size == other.image_size
            and _equal_or_both_missing(self.track_ids, other.track_ids)
            and _equal_or_both_missing(self.parents, other.parents)
        )

    # Equal objects would need equal hashes, and arrays have none.
    __hash__ = None  # type: ignore[assignment]  # as Python itself would set it

    def __getitem__(self, key: int | slice | ArrayLike) -> "Detections":
        """The chosen detections.

        Args:
            key: A slice, a mask of N booleans, a list of indices, or one index (which gives
                `Detections` of length one, so that a loop goes over single detections).

        Raises:
            IndexError: If a single index is out of range.
            DetectionsError: If a mask or a list of indices does not fit.
        """
        rows = self._rows(key)
        return Detections(
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            names=tuple(self.names[row] for row in rows),
            image_size=self.image_size,
            source=self.source,
            track_ids=None if self.track_ids is None else self.track_ids[rows],
            parents=None if self.parents is None else _follow(self.parents, rows),
        )

    def _rows(self, key: int | slice | ArrayLike) -> NDArray[np.int64]:
        everything = np.arange(len(self), dtype=np.int64)
        if isinstance(key, slice):
            return everything[key]
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            return np.array([everything[key]])
        chosen: NDArray[Any] = np.asarray(key)
        if chosen.dtype == bool:
            if chosen.shape != everything.shape:
                raise DetectionsError(
                    f"expected a mask of shape [{len(self)}], found {list(chosen.shape)}"
                )
            return np.flatnonzero(chosen)
        chosen = _integers("indices", chosen)
        if chosen.ndim != 1:
            raise DetectionsError(f"expected indices of shape [K], found {list(chosen.shape)}")
        outside = chosen[(chosen < -len(self)) | (chosen >= len(self))]
        if len(outside):
            raise DetectionsError(f"expected indices below {len(self)}, found {outside[0]}")
        return everything[chosen]

    def without_source(self) -> "Detections":
        """The same detections without the image, for keeping many of them or sending them away."""
        return replace(self, source=None)

    def filter(self, threshold: float) -> "Detections":
        """The detections whose score is strictly above the threshold, in [0, 1].

        Raises:
            DetectionsError: If the threshold is not a number in [0, 1].
        """
        try:
            fits = bool(0 <= threshold <= 1)
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise DetectionsError(f"expected a threshold in [0, 1], found {threshold!r}")
        return self[self.scores > np.float32(threshold)]

    def to_list(self) -> list[dict[str, Any]]:
        """The detections as the zero-shot object detection pipeline of `transformers` gives them.

        Returns:
            By descending score, one dict for each box: ``{"score": float, "label": name, "box":
            {"xmin": int, "ymin": int, "xmax": int, "ymax": int}}``. Coordinates are pixels of the
            original image, cut to integers towards zero. Ready for `json.dumps`. Boxes that a
            predictor found are clipped to the image, which those of the pipeline are not.
        """
        found = []
        for row in np.argsort(-self.scores, kind="stable"):
            corners = (int(value) for value in self.boxes[row])
            found.append(
                {
                    "score": float(self.scores[row]),
                    "label": self.names[row],
                    "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)),
                }
            )
        return found

    def to_coco(
        self, image_id: int, category_ids: Mapping[int, int] | Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """The detections as entries of a COCO results file.

        Args:
            image_id: Id of the image in the annotation file.
            category_ids: COCO category id of each label; None writes the labels themselves.

        Returns:
            For each box, in order, ``{"image_id", "category_id", "bbox": [x, y, width, height],
            "score"}`` with pixels of the original image as floats. Ready for `json.dumps`.

        Raises:
            DetectionsError: If a label has no category id.
        """
        # An id read from an array or a data frame is no JSON.
        plain_id = image_id.item() if isinstance(image_id, np.generic) else image_id
        corners = self.boxes.astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        return [
            {
                "image_id": plain_id,
                "category_id": _category_id(label, category_ids),
                "bbox": box,
                "score": score,
            }
            for label, box, score in zip(
                self.labels.tolist(), boxes.tolist(), self.scores.tolist(), strict=True
            )
        ]

    def to_supervision(self) -> "supervision.Detections":
        """The detections as `supervision.Detections`, with the names in ``data["class_name"]``.

        Track ids become its ``tracker_id``; it has no place for parents.

        Raises:
            MissingDependencyError: If `supervision` is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise MissingDependencyError(
                "to_supervision needs the package supervision: pip install supervision"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.copy(),
            tracker_id=None if self.track_ids is None else self.track_ids.copy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def plot(self, **options: Any) -> "Image":
        """Draws the detections on the image they come from.

        Args:
            **options: Passed on to `owlkit.visualize.draw_detections`.

        Returns:
            A new RGB image of the original size.

        Raises:
            DetectionsError: If the image is not known, or an option cannot be used.
            ImageError: If the image cannot be read.
        """
        if self.source is None:
            raise DetectionsError(
                "expected detections that know their image (source), found None; draw them with "
                "owlkit.visualize.draw_detections(image, detections)"
            )
        from owlkit.visualize import draw_detections

        return draw_detections(self.source, self, **options)


def _floats(name: str, values: ArrayLike) -> NDArray[np.float32]:
    try:
        # What overflows becomes infinite, and is then reported with its row.
        with np.errstate(over="ignore"):
            return np.array(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DetectionsError(f"expected {name} to be an array of numbers: {error}") from error


def _integers(name: str, values: ArrayLike) -> NDArray[np.int64]:
    array = np.array(values)
    if array.dtype.kind not in "iu" and array.size:
        raise DetectionsError(f"expected {name} to be integers, found {array.dtype}")
    return array.astype(np.int64)


def _optional_integers(name: str, values: ArrayLike | None) -> NDArray[np.int64] | None:
    return None if values is None else _integers(name, values)


def _equal_or_both_missing(a: NDArray[np.int64] | None, b: NDArray[np.int64] | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


def _follow(parents: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The parents [K] of the chosen rows, as positions among them; -1 where not chosen."""
    # One place more, at the end, which -1 (no parent) reads.
    positions = np.full(len(parents) + 1, -1, dtype=np.int64)
    # Backwards, so that of a row that is chosen twice the first copy is the parent.
    positions[rows[::-1]] = np.arange(len(rows))[::-1]
    return positions[parents[rows]]


def _tuple_of_names(names: Iterable[str]) -> tuple[str, ...]:
    # The letters of a string would pass for names.
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise DetectionsError(f"expected names to be a sequence of strings, found {names!r}")
    return tuple(names)


def _checked_size(size: tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    found = tuple(size) if isinstance(size, Iterable) else ()
    if len(found) != 2 or not all(
        isinstance(side, int | np.integer) and side > 0 for side in found
    ):
        raise DetectionsError(f"expected image_size (height, width) in pixels, found {size!r}")
    return int(found[0]), int(found[1])


def _category_id(label: int, category_ids: Mapping[int, int] | Sequence[int] | None) -> int:
    if category_ids is None:
        return label
    try:
        return int(category_ids[label])
    except (KeyError, IndexError) as error:
        raise DetectionsError(f"expected a category id for label {label}, found none") from error
