"""Which classes a detector was trained on (base) and which it only knows by name (novel)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owlkit.data.coco import DetectionDataset
from owlkit.data.coco_json import load_json_object
from owlkit.errors import DatasetError


@dataclass(frozen=True)
class ClassSplit:
    """Base and novel classes of a data set, in its order; a class may be in neither.

    Attributes:
        base: Indices into the data set's names.
        novel: Indices into the data set's names.
        base_ids: Category ids of ``base``.
        novel_ids: Category ids of ``novel``.
    """

    base: tuple[int, ...]
    novel: tuple[int, ...]
    base_ids: tuple[int, ...]
    novel_ids: tuple[int, ...]


def read_split(
    path: str | os.PathLike[str],
    classes: DetectionDataset | tuple[Sequence[str], Sequence[int]],
    *,
    setting: str = "split",
) -> ClassSplit:
    """Reads a JSON file with the keys ``base`` and ``novel``, such as open-vocabulary COCO's.

    Args:
        path: Each key holds a list of names, of category ids, or of objects with ``name``; of an
            object the name decides, because ids change when data sets are converted.
        classes: The data set, or its names and category ids.
        setting: What errors call the file: the user's option or key.

    Raises:
        DatasetError: If the file cannot be read or understood, names classes that the data set
            does not have, or names a class on both sides; lists them.
    """
    path = Path(path)
    if isinstance(classes, DetectionDataset):
        names, category_ids = classes.names, classes.category_ids
    else:
        names, category_ids = tuple(classes[0]), tuple(classes[1])
    content = load_json_object(path, setting=setting)
    index = {name: position for position, name in enumerate(names)}
    index_of_id = {number: position for position, number in enumerate(category_ids)}
    base, novel = (
        _indices(path, side, content.get(side), index, index_of_id) for side in ("base", "novel")
    )
    if both := set(base) & set(novel):
        listing = ", ".join(repr(names[position]) for position in sorted(both))
        raise DatasetError(f"{path}: expected every class once, found in base and novel: {listing}")
    return ClassSplit(
        base=base,
        novel=novel,
        base_ids=tuple(category_ids[position] for position in base),
        novel_ids=tuple(category_ids[position] for position in novel),
    )


def _indices(
    path: Path, side: str, items: Any, index: dict[str, int], index_of_id: dict[int, int]
) -> tuple[int, ...]:
    """Indices of the classes that one side lists, ascending."""
    if not isinstance(items, list):
        raise DatasetError(f"{path}: expected a list of classes in {side!r}, found {items!r:.60}")
    positions, unknown = set(), []
    for item in items:
        key = item.get("name", item.get("id")) if isinstance(item, dict) else item
        if isinstance(key, str):
            position = index.get(key)
        else:
            position = index_of_id.get(key) if type(key) is int else None
        if position is None:
            unknown.append(repr(key))
        else:
            positions.add(position)
    if unknown:
        raise DatasetError(
            f"{path}: expected names or ids of the data set's {len(index)} classes in {side!r}, "
            f"found {len(unknown)} others: {', '.join(unknown[:10])}"
        )
    return tuple(sorted(positions))
