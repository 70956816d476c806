"""Other formats of annotated boxes, converted to COCO's."""

import logging
import math
import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from owlkit.data.dataset_report import DatasetReport, Finding, Findings
from owlkit.errors import DatasetError

VocSource = str | os.PathLike[str] | Sequence[Path]
"""A folder of Pascal VOC annotations, or their XML files."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Object:
    """One object as VOC writes it; corners are xmin, ymin, xmax, ymax as in the file."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: int
    truncated: int


@dataclass(frozen=True, slots=True)
class _Page:
    """One VOC file: an image and its objects."""

    path: Path
    file_name: str
    width: int
    height: int
    objects: tuple[_Object, ...]


def voc_to_coco(
    source: VocSource,
    *,
    split: str | None = None,
    names: Sequence[str] | None = None,
    offset: Literal[0, 1] = 1,
) -> dict[str, Any]:
    """Turns Pascal VOC annotations [0] into COCO's format.

    Boxes of zero or negative size are left out; they are counted and listed in the log. Boxes that
    leave their image are kept as they are, which :func:`~owlkit.data.coco.read_coco` clips.

    - [0]: The PASCAL Visual Object Classes Challenge 2007, Development Kit,
      http://host.robots.ox.ac.uk/pascal/VOC/voc2007/

    Args:
        source: A folder that holds XML files in ``Annotations`` or itself; or the XML files.
        split: Only the images listed in ``ImageSets/Main/<split>.txt`` of the folder.
        names: Classes in the order of their ids, which count from 1. None takes every name that
            occurs in the source, not only in the split, in alphabetical order.
        offset: How corners are to be read. 1, as in VOC: the first and last pixel inside, counted
            from 1, so that a box is ``xmax - xmin + 1`` wide. 0, as most annotation tools write:
            coordinates of the edges, so that it is ``xmax - xmin`` wide.

    Returns:
        ``images``, ``annotations`` (with ``difficult`` and ``truncated``) and ``categories``; ids
        count from 1 in the order of the file names.

    Raises:
        DatasetError: If there are no files, one is no VOC annotation, two are of one picture, or a
            name is not in ``names``.
    """
    pages = {path.stem: _read_page(path) for path in _find_pages(source)}
    classes = _class_ids(pages.values(), names)
    if split is not None:
        pages = {stem: pages[stem] for stem in _read_list(source, split, pages)}
    _check_every_picture_once(pages.values())
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    findings = Findings()
    for image_id, page in enumerate(pages.values(), start=1):
        size = {"width": page.width, "height": page.height}
        images.append({"id": image_id, "file_name": page.file_name, **size})
        for item in page.objects:
            x0, y0, x1, y1 = item.corners
            box = [x0 - offset, y0 - offset, x1 - x0 + offset, y1 - y0 + offset]
            if min(box[2:]) <= 0:
                findings.add(Finding.EMPTY, f"{page.path}: {item.name} {list(item.corners)}")
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": classes[item.name],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "difficult": item.difficult,
                    "truncated": item.truncated,
                }
            )
    report = DatasetReport.of(
        findings, source=_describe(source), images=len(images), boxes=len(annotations)
    )
    _logger.log(logging.WARNING if report.has_faults else logging.INFO, "%s", report)
    categories = [{"id": number, "name": name} for name, number in classes.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _describe(source: VocSource) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else f"{len(source)} XML files"


def _find_pages(source: VocSource) -> list[Path]:
    """The XML files in the order of their names."""
    if not isinstance(source, str | os.PathLike):
        paths = sorted(map(Path, source), key=lambda path: path.stem)
    else:
        inner = Path(source) / "Annotations"
        paths = sorted((inner if inner.is_dir() else Path(source)).glob("*.xml"))
    if not paths:
        raise DatasetError(
            f"expected Pascal VOC files, Annotations/*.xml or *.xml, in {_describe(source)}, "
            "found none"
        )
    repeated = [stem for stem, count in Counter(path.stem for path in paths).items() if count > 1]
    if repeated:
        raise DatasetError(f"expected every file name once, found twice: {', '.join(repeated[:5])}")
    return paths


def _check_every_picture_once(pages: Iterable[_Page]) -> None:
    """Raises DatasetError if two files describe one picture: each lacks the other's objects."""
    first: dict[str, _Page] = {}
    for page in pages:
        other = first.setdefault(page.file_name, page)
        if other is not page:
            raise DatasetError(
                f"expected one XML file for each picture, found the <filename> {page.file_name} in "
                f"{other.path} and {page.path}"
            )


def _class_ids(pages: Iterable[_Page], names: Sequence[str] | None) -> dict[str, int]:
    """Id of each class, counted from 1.

    Raises:
        DatasetError: If a class is not among the given names, or these repeat.
    """
    if names is not None and len(set(names)) < len(names):
        raise DatasetError(f"expected every class name once, found {list(names)}")
    pages_of: dict[str, _Page] = {}
    for page in pages:
        for item in page.objects:
            pages_of.setdefault(item.name, page)
    classes = sorted(pages_of) if names is None else names
    strange = [f"{name!r} ({pages_of[name].path})" for name in sorted(set(pages_of) - set(classes))]
    if strange:
        raise DatasetError(
            f"expected objects named {', '.join(map(repr, classes))}, found {', '.join(strange)}"
        )
    return {name: number for number, name in enumerate(classes, start=1)}


def _read_list(source: VocSource, split: str, pages: Mapping[str, _Page]) -> list[str]:
    """File names, without suffix, of the images of a split."""
    if not isinstance(source, str | os.PathLike):
        raise DatasetError(f"expected a folder to look for the list of {split!r}, found files")
    path = Path(source) / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        found = error.strerror if isinstance(error, OSError) else error
        raise DatasetError(f"{path}: expected a list of images, found {found}") from error
    # VOC's lists for single classes have a second column.
    stems = [line.split()[0] for line in lines if line.strip()]
    missing = [stem for stem in stems if stem not in pages]
    if missing:
        raise DatasetError(
            f"{path}: expected a file Annotations/<name>.xml for each of {len(stems)} images, "
            f"found none for {len(missing)}: {', '.join(missing[:5])}"
        )
    return stems


class _TreeBuilder(ET.TreeBuilder):
    """Refuses document types: entities declared there can grow to gigabytes or name other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DatasetError(f"expected plain XML, found a document type {name!r}")


def _read_page(path: Path) -> _Page:
    """Reads one file.

    Raises:
        DatasetError: If it is no VOC annotation; names the file and the line or the key.
    """
    try:
        root = ET.parse(path, ET.XMLParser(target=_TreeBuilder())).getroot()
        return _Page(
            path=path,
            file_name=_file_name((root.findtext("filename") or "").strip() or path.stem),
            width=int(_number(root, "size/width", at_least=1)),
            height=int(_number(root, "size/height", at_least=1)),
            objects=tuple(map(_read_object, root.findall("object"))),
        )
    except ET.ParseError as error:
        # The message of the parser states line and column.
        raise DatasetError(f"{path}: expected XML, found {error}") from error
    except OSError as error:
        raise DatasetError(f"{path}: expected a readable file, found {error.strerror}") from error
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None


def _file_name(name: str) -> str:
    """The name with VOC's suffix if it has none: some tools leave it away."""
    return name if Path(name).suffix else f"{name}.jpg"


def _read_object(element: ET.Element) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DatasetError("expected a name in every object, found none or an empty one")
    xmin, ymin, xmax, ymax = (
        _number(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")
    )
    return _Object(
        name=name,
        corners=(xmin, ymin, xmax, ymax),
        difficult=int(_number(element, "difficult", default="0")),
        truncated=int(_number(element, "truncated", default="0")),
    )


def _number(
    element: ET.Element, key: str, *, default: str | None = None, at_least: float = -math.inf
) -> float:
    """The number that a child holds; a whole one as an int."""
    text = element.findtext(key, default)
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= at_least):
        least = "" if at_least == -math.inf else f" of at least {at_least}"
        found = "nothing" if text is None else repr(text)
        raise DatasetError(f"expected a number{least} in <{element.tag}> {key}, found {found}")
    return int(number) if number.is_integer() else number
