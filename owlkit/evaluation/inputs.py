"""Ground truth and results: read, checked, and turned into arrays once.

Shapes: I images, K categories, G ground-truth objects, N detections. Boxes are xywh (left, top,
width, height) in pixels, float64, as the files hold them: the metrics are defined on those numbers,
and going through corners would round them. Images and categories are counted by their position in
the ascending lists of ids, so that ids may have gaps.

Annotation ids are not read at all. pycocotools uses them as match marks and takes an object with
the id 0 for one that was never found.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import DatasetError

Record = Mapping[str, Any]
GroundTruth = Mapping[str, Any] | str | Path
"""A COCO dictionary (`images`, `categories`, `annotations`), or the path of its JSON file."""
Results = Sequence[Record] | str | Path
"""COCO results (`image_id`, `category_id`, `bbox`, `score` each), or the path of their JSON."""

_SHOWN = 10  # unknown ids that an error lists


@dataclass(frozen=True, eq=False)
class Rows:
    """Boxes of one side.

    Attributes:
        image: Position in the ascending image ids [R].
        category: Position in the ascending category ids [R].
        boxes: xywh pixels [R, 4].
    """

    image: NDArray[np.int64]
    category: NDArray[np.int64]
    boxes: NDArray[np.float64]

    def take(self, rows: NDArray[Any]) -> Self:
        """The chosen rows (indices or a mask), in that order."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def among(self, images: NDArray[np.int64], categories: NDArray[np.int64]) -> Self:
        """The rows of some images and categories (ascending positions), counted among those."""
        rows = self.take(np.isin(self.image, images) & np.isin(self.category, categories))
        return replace(
            rows,
            image=np.searchsorted(images, rows.image),
            category=np.searchsorted(categories, rows.category),
        )


@dataclass(frozen=True, eq=False)
class Objects(Rows):
    """The objects of the ground truth (R = G).

    Attributes:
        areas: Of the object, which decides on its size class [G]; the mask's in COCO.
        crowd: Whether the box surrounds a group [G].
    """

    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Found(Rows):
    """Detections (R = N), in the order in which they were given.

    Attributes:
        scores: Any finite numbers, the higher the better [N].
    """

    scores: NDArray[np.float64]

    @property
    def areas(self) -> NDArray[np.float64]:
        """Width times height [N]."""
        return np.asarray(self.boxes[:, 2] * self.boxes[:, 3])


@dataclass(frozen=True, eq=False)
class Problem:
    """What is evaluated.

    Attributes:
        images: Image records by ascending id (I).
        categories: Category records by ascending id (K).
        objects: The ground truth.
        found: The detections.
    """

    images: tuple[Record, ...]
    categories: tuple[Record, ...]
    objects: Objects
    found: Found

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Ascending (K)."""
        return tuple(int(record["id"]) for record in self.categories)


def read_problem(
    ground_truth: GroundTruth,
    results: Results,
    *,
    image_ids: Iterable[int] | None = None,
    category_ids: Iterable[int] | None = None,
) -> Problem:
    """Reads and checks both sides; nothing that is passed in is changed.

    Every image and category that an entry names must be in the ground truth. One that is there but
    was not asked for (``image_ids``, ``category_ids``) is left out on both sides. An annotation
    without `iscrowd` is no crowd; one without `area` has that of its box.

    Args:
        ground_truth: A COCO dictionary, or the path of its JSON file.
        results: A list of COCO result dictionaries, maybe empty, or the path of its JSON file.
        image_ids: The images to measure on; None for all.
        category_ids: The categories to measure; None for all.

    Returns:
        The problem as arrays.

    Raises:
        DatasetError: If a file cannot be read, a part or key is missing, a number is not finite, a
            box is not four numbers or has a negative size, an id is unknown or given twice. Names
            the entry.
    """
    truth = _read_json(ground_truth)
    if not isinstance(truth, Mapping):
        raise DatasetError(f"ground truth: expected a COCO dictionary, found {_short(truth)}")
    images, categories = (_read_ids(truth, part) for part in ("images", "categories"))
    known = tuple(
        np.array([record["id"] for record in part], np.int64) for part in (images, categories)
    )
    objects = _read_objects(_part(truth, "annotations"), *known)
    found = _read_found(_read_json(results), *known)
    kept_images = _chosen(known[0], image_ids, "image_ids")
    kept_categories = _chosen(known[1], category_ids, "category_ids")
    return Problem(
        images=tuple(images[index] for index in kept_images),
        categories=tuple(categories[index] for index in kept_categories),
        objects=objects.among(kept_images, kept_categories),
        found=found.among(kept_images, kept_categories),
    )


def _read_json(source: object) -> object:
    if not isinstance(source, str | Path):
        return source
    try:
        return json.loads(Path(source).read_bytes())
    except OSError as error:
        raise DatasetError(f"{source}: expected a JSON file, found {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{source}: expected JSON, found {error}") from error


def _part(truth: Mapping[str, Any], name: str) -> Sequence[Record]:
    part = truth.get(name)
    if not isinstance(part, list | tuple):
        raise DatasetError(f"ground truth: expected a list {name!r}, found {_short(part)}")
    return part


def _read_ids(truth: Mapping[str, Any], name: str) -> list[Record]:
    """The records of one part, by ascending id."""
    records = _part(truth, name)
    ids = _column(records, "id", name, INTEGER)
    if not len(ids):
        raise DatasetError(f"ground truth: expected at least one entry in {name!r}, found none")
    order = np.argsort(ids, kind="stable")
    repeated = np.flatnonzero(np.diff(ids[order]) == 0)
    if len(repeated):
        row = order[repeated[0] + 1]
        raise DatasetError(f"{name}[{row}]: expected an id of its own, found {ids[row]} again")
    return [records[index] for index in order]


def _read_objects(
    records: Sequence[Record], image_ids: NDArray[np.int64], category_ids: NDArray[np.int64]
) -> Objects:
    where = "annotations"
    boxes = _column(records, "bbox", where, BOX)
    areas = _column(records, "area", where, NUMBER, default=-1.0)
    return Objects(
        image=_positions(records, "image_id", where, image_ids),
        category=_positions(records, "category_id", where, category_ids),
        boxes=boxes,
        areas=np.where(areas < 0, boxes[:, 2] * boxes[:, 3], areas),
        crowd=_column(records, "iscrowd", where, FLAG, default=0).astype(bool),
    )


def _read_found(
    records: object, image_ids: NDArray[np.int64], category_ids: NDArray[np.int64]
) -> Found:
    where = "results"
    if not isinstance(records, list | tuple):
        raise DatasetError(f"results: expected a list of dictionaries, found {_short(records)}")
    return Found(
        image=_positions(records, "image_id", where, image_ids),
        category=_positions(records, "category_id", where, category_ids),
        boxes=_column(records, "bbox", where, BOX),
        scores=_column(records, "score", where, NUMBER),
    )


@dataclass(frozen=True)
class _Kind:
    """What a column holds: how numpy shows that all is well, and how to find what is not."""

    expected: str
    dtype_kinds: str
    dtype: type[np.generic]
    tail: tuple[int, ...]
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def _is_box(value: Any) -> bool:
    # Files hold lists; results made in memory may hold arrays.
    if not isinstance(value, list | tuple | np.ndarray) or len(value) != 4:
        return False
    return all(map(_is_number, value)) and value[2] >= 0 and value[3] >= 0


def _is_integer(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral)


INTEGER = _Kind("an integer", "iu", np.int64, (), _is_integer)
FLAG = _Kind("0 or 1", "biu", np.int64, (), lambda value: value in (0, 1))
NUMBER = _Kind("a finite number", "iuf", np.float64, (), _is_number)
BOX = _Kind("[x, y, width, height], finite, no negative size", "iuf", np.float64, (4,), _is_box)


def _column(
    records: Sequence[Record], key: str, where: str, kind: _Kind, default: object = None
) -> NDArray[Any]:
    """One key of all records as an array [N, ...]; a look at single records only on a fault."""
    values = _values(records, key, where, default)
    if not values:
        return np.zeros((0, *kind.tail), kind.dtype)
    try:
        column = np.asarray(values)
    except ValueError:  # boxes of different lengths
        column = np.empty(0)
    if column.shape != (len(values), *kind.tail) or column.dtype.kind not in kind.dtype_kinds:
        raise _fault(values, key, where, kind)
    if not np.isfinite(column).all() or (kind is BOX and (column[:, 2:] < 0).any()):
        raise _fault(values, key, where, kind)
    return column.astype(kind.dtype)


def _values(records: Sequence[Record], key: str, where: str, default: object) -> list[Any]:
    try:
        if default is not None:
            return [record.get(key, default) for record in records]
        return [record[key] for record in records]
    except (KeyError, TypeError, AttributeError):
        for index, record in enumerate(records):
            if not isinstance(record, Mapping) or key not in record:
                message = f"{where}[{index}]: expected {key!r}, found {_short(record)}"
                raise DatasetError(message) from None
        raise


def _fault(values: list[Any], key: str, where: str, kind: _Kind) -> DatasetError:
    index = next((index for index, value in enumerate(values) if not kind.fits(value)), 0)
    return DatasetError(
        f"{where}[{index}]: expected {key!r} to be {kind.expected}, found {_short(values[index])}"
    )


def _positions(
    records: Sequence[Record], key: str, where: str, known: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where the ids under ``key`` stand in the ascending known ones [N]."""
    ids = _column(records, key, where, INTEGER)
    positions = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    unknown = np.flatnonzero(known[positions] != ids)
    if len(unknown):
        raise DatasetError(
            f"{where}[{unknown[0]}]: expected {key!r} to be in the ground truth, found"
            f" {ids[unknown[0]]}; {len(unknown)} of {len(ids)} entries have unknown ids:"
            f" {_listed(ids[unknown])}"
        )
    return positions


def _chosen(known: NDArray[np.int64], wanted: Iterable[int] | None, name: str) -> NDArray[np.int64]:
    """Positions of the wanted ids, ascending."""
    if wanted is None:
        return np.arange(len(known))
    ids = list(wanted)
    unknown = [value for value in ids if not _is_integer(value) or value not in known]
    if unknown or not ids:
        found = f"unknown {unknown[:_SHOWN]}" if unknown else "none"
        raise DatasetError(f"{name}: expected ids of the ground truth, found {found}")
    return np.searchsorted(known, np.unique(ids))


def _listed(ids: NDArray[np.int64]) -> str:
    distinct = np.unique(ids).tolist()
    more = f" and {len(distinct) - _SHOWN} more" if len(distinct) > _SHOWN else ""
    return f"{distinct[:_SHOWN]}{more}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
