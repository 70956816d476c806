"""COCO and LVIS annotation files: parsed, and every entry checked for keys and types.

Shapes: A annotations.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import DatasetError

_LISTED_FAULTS = 5
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "iscrowd", "area")


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image as it is listed.

    Attributes:
        id: Number of the image.
        file_names: Where it may be below the folder of the images, best guess first.
        width: In pixels.
        height: In pixels.
        absent: Ids of categories that were looked for and not found (LVIS).
        not_exhaustive: Ids of categories of which not every instance is boxed (LVIS).
    """

    id: int
    file_names: tuple[str, ...]
    width: int
    height: int
    absent: tuple[int, ...]
    not_exhaustive: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class AnnotationTable:
    """All annotations in the order of the file.

    Attributes:
        ids: int64 [A].
        image_ids: int64 [A].
        category_ids: int64 [A].
        boxes: As in the file: x0, y0, width, height in pixels, float64 [A, 4].
        crowd: True for a region that stands for many instances [A].
    """

    ids: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    crowd: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A parsed file; entries have the right types, but may refer to what is not there.

    Attributes:
        names: Category names, by ascending id.
        category_ids: Ascending.
        frequencies: LVIS's "r", "c" or "f" of each category, else None.
        images: In the order of the file.
        annotations: In the order of the file.
        federated: Whether images say which categories are absent, as in LVIS.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    frequencies: tuple[str | None, ...]
    images: tuple[ImageEntry, ...]
    annotations: AnnotationTable
    federated: bool


def parse_coco(path: Path, *, setting: str = "annotations") -> CocoFile:
    """Reads a file in COCO's or LVIS's format [0, 1] to learn from; masks are not kept.

    - [0]: COCO data format, https://cocodataset.org/#format-data
    - [1]: LVIS: A Dataset for Large Vocabulary Instance Segmentation, 2019,
      https://arxiv.org/abs/1908.03195

    Args:
        path: The file.
        setting: What errors call it: the user's option or key.

    Raises:
        DatasetError: If it is no JSON, an entry lacks a key or has a value of the wrong type, or
            ids of images, or ids or names of categories, occur twice.
    """
    content = load_json_object(path, setting=setting, object_hook=_without_masks)
    _raise_if_any(path, _type_faults(content, _CONTENT))
    _raise_if_any(path, _files_not_named(content))
    _raise_if_any(path, _duplicates(content))
    return _coco_file(content)


def parse_truth(path: Path, *, setting: str = "annotations") -> tuple[CocoFile, dict[str, Any]]:
    """Reads the same format to measure against: objects may have areas, images need no file.

    Args:
        path: The file.
        setting: What errors call it: the user's option or key.

    Returns:
        The parsed file, and the JSON object that it was, without masks.

    Raises:
        DatasetError: As :func:`parse_coco`.
    """
    content = load_json_object(path, setting=setting, object_hook=_without_masks)
    _raise_if_any(path, _type_faults(content, _TRUTH))
    _raise_if_any(path, _duplicates(content))
    return _coco_file(content), content


def _coco_file(content: dict[str, Any]) -> CocoFile:
    """The parts of a sound file."""
    categories = sorted(content["categories"], key=lambda category: category["id"])
    return CocoFile(
        names=tuple(category["name"] for category in categories),
        category_ids=tuple(category["id"] for category in categories),
        frequencies=tuple(category.get("frequency") for category in categories),
        images=tuple(map(_image_entry, content["images"])),
        annotations=_annotation_table(content["annotations"]),
        federated=any("neg_category_ids" in image for image in content["images"]),
    )


def load_json_object(
    path: Path,
    *,
    setting: str,
    object_hook: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        path: The file.
        setting: What errors call it: the user's option or key.
        object_hook: Of :func:`json.load`.

    Raises:
        DatasetError: If it cannot be read or holds anything else; names the file, and the line of a
            mistake.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = json.load(file, object_hook=object_hook)
    except OSError as error:
        raise DatasetError(
            f"{path} ({setting}): expected a JSON file, found {error.strerror}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: expected JSON in UTF-8, found {error}") from error
    if not isinstance(content, dict):
        hint = " (a list is how COCO writes detections)" if isinstance(content, list) else ""
        raise DatasetError(
            f"{path}: expected a JSON object, found {_json_type(content)} at the top{hint}"
        )
    return content


def _without_masks(item: dict[str, Any]) -> dict[str, Any]:
    """Lets go of masks while the file is parsed: they are nine tenths of it."""
    if "bbox" in item:
        return {key: item[key] for key in _ANNOTATION_KEYS if key in item}
    return item


@dataclass(frozen=True)
class _Key:
    """What is expected of one key of an entry."""

    expected: str
    holds: Callable[[Any], bool]
    required: bool = True


def _is_id(value: Any) -> bool:
    # True is an int to Python, and numpy's integers end at 64 bits.
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_id, value))


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(type(number) is float or _is_id(number) for number in value)
    )


def _is_finite(value: Any) -> bool:
    return _is_id(value) or (type(value) is float and math.isfinite(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


_ID = _Key("an integer", _is_id)
_IDS = _Key("a list of integers", _is_ids, required=False)
_LENGTH = _Key("an integer above 0", lambda value: _is_id(value) and value > 0)
_TEXT = _Key("a text", _is_text)
_OPTIONAL_TEXT = _Key("a text", _is_text, required=False)
_CONTENT: dict[str, dict[str, _Key]] = {
    "categories": {"id": _ID, "name": _TEXT, "frequency": _OPTIONAL_TEXT},
    "images": {
        "id": _ID,
        "width": _LENGTH,
        "height": _LENGTH,
        "file_name": _OPTIONAL_TEXT,
        "coco_url": _OPTIONAL_TEXT,
        "neg_category_ids": _IDS,
        "not_exhaustive_category_ids": _IDS,
    },
    "annotations": {
        "id": _ID,
        "image_id": _ID,
        "category_id": _ID,
        "bbox": _Key("four numbers (x, y, width, height)", _is_box),
        "iscrowd": _Key("0 or 1", lambda value: value in (0, 1), required=False),
    },
}

_TRUTH = {
    **_CONTENT,
    "annotations": {
        **_CONTENT["annotations"],
        "area": _Key("a finite number", _is_finite, required=False),
    },
}


def _type_faults(
    content: dict[str, Any], expected: Mapping[str, Mapping[str, _Key]]
) -> Iterator[str]:
    """Yields what is missing or of the wrong type."""
    for part, keys in expected.items():
        items = content.get(part)
        if not isinstance(items, list):
            found = "no such key" if part not in content else _json_type(items)
            yield f"{part}: expected a list, found {found}"
            continue
        if not items and part != "annotations":
            yield f"{part}: expected at least one entry, found an empty list"
        for index, item in enumerate(items):
            for fault in _entry_faults(item, keys):
                yield f"{part}[{index}]{fault}"


def _entry_faults(item: Any, keys: Mapping[str, _Key]) -> Iterator[str]:
    if not isinstance(item, dict):
        yield f": expected an object, found {_json_type(item)}"
        return
    for name, key in keys.items():
        if name not in item:
            if key.required:
                yield f".{name}: expected {key.expected}, found no such key in {_brief(item)}"
        elif not key.holds(item[name]):
            yield f".{name}: expected {key.expected}, found {_brief(item[name])}"


def _files_not_named(content: dict[str, Any]) -> Iterator[str]:
    """Yields images that do not say where they are."""
    for index, image in enumerate(content["images"]):
        if "file_name" not in image and "coco_url" not in image:
            yield (
                f"images[{index}].file_name: expected a text (or one in coco_url), found neither "
                f"in {_brief(image)}"
            )


def _duplicates(content: dict[str, Any]) -> Iterator[str]:
    """Yields ids and names that must be unique and are not."""
    for part in ("images", "categories"):
        for value, count in Counter(item["id"] for item in content[part]).items():
            if count > 1:
                yield f"{part}: expected every id once, found {value} {count} times"
    ids: defaultdict[str, list[int]] = defaultdict(list)
    for category in content["categories"]:
        ids[category["name"]].append(category["id"])
    for name, same in ids.items():
        if len(same) > 1:
            yield (
                f"categories: expected every name once, found {_brief(name)} {len(same)} times, "
                f"with the ids {', '.join(map(str, same))}. If one of them is a placeholder "
                "without annotations, as in Roboflow's exports, remove or rename it"
            )


def _raise_if_any(path: Path, faults: Iterator[str]) -> None:
    """Raises DatasetError with the first faults, if there are any."""
    first = list(islice(faults, _LISTED_FAULTS))
    if first:
        more = sum(1 for _ in faults)
        end = f"\n  and {more} more" if more else ""
        raise DatasetError(f"{path} cannot be used:\n  " + "\n  ".join(first) + end)


def _image_entry(image: dict[str, Any]) -> ImageEntry:
    names = [image["file_name"]] if "file_name" in image else []
    if "coco_url" in image:
        # LVIS has no file names: its images lie in COCO's folders, which the address names.
        address = PurePosixPath(image["coco_url"])
        names += ["/".join(address.parts[-2:]), address.name]
    return ImageEntry(
        id=image["id"],
        file_names=tuple(dict.fromkeys(names)),
        width=image["width"],
        height=image["height"],
        absent=tuple(image.get("neg_category_ids", ())),
        not_exhaustive=tuple(image.get("not_exhaustive_category_ids", ())),
    )


def _annotation_table(annotations: list[dict[str, Any]]) -> AnnotationTable:
    def column(key: str) -> NDArray[np.int64]:
        return np.array([item[key] for item in annotations], np.int64)

    return AnnotationTable(
        ids=column("id"),
        image_ids=column("image_id"),
        category_ids=column("category_id"),
        boxes=np.array([item["bbox"] for item in annotations], np.float64).reshape(-1, 4),
        crowd=np.array([item.get("iscrowd", 0) for item in annotations], np.bool_),
    )


def _json_type(value: Any) -> str:
    names = {list: "a list", dict: "an object", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _brief(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
