"""Answers as files that people take away: COCO JSON, YOLO labels, pictures."""

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from owlkit.labels import LabelledImage, coco_files, unique_stems, yolo_files
from owlkit.visualize import class_palette, draw_detections
from page.desk import Answer, Asked, names_of
from page.limits import Limits
from page.uploads import read_picture

KINDS = {"coco": "Save COCO JSON", "yolo": "Save YOLO txt", "png": "Save PNG"}


def write_download(kind: str, asked: Asked, answer: Answer, folder: Path, limits: Limits) -> str:
    """Writes what is downloaded.

    Args:
        kind: One of :data:`KINDS`.
        asked: What was asked.
        answer: To it.
        folder: A new folder in it holds the file.
        limits: For reading the pictures again.

    Returns:
        The file: JSON, PNG of one picture, or a ZIP archive.
    """
    place = Path(tempfile.mkdtemp(dir=folder, prefix="download-"))
    return str(_WRITERS[kind](asked, answer, place, limits))


def _write_coco(asked: Asked, answer: Answer, place: Path, _: Limits) -> Path:
    [(name, text)] = coco_files(_labelled(asked, answer), asked.queries.names)
    path = place / name
    with path.open("w") as file:
        file.writelines(text)
    return path


def _write_yolo(asked: Asked, answer: Answer, place: Path, _: Limits) -> Path:
    path = place / "yolo.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, lines in yolo_files(_labelled(asked, answer), asked.queries.names):
            archive.writestr(name, "".join(lines))
    return path


def _write_pictures(asked: Asked, answer: Answer, place: Path, limits: Limits) -> Path:
    palette = class_palette(one.colour for one in asked.queries.classes)
    names = [f"{stem}.png" for stem in _stems(asked.pictures)]
    for path, found, name in zip(asked.pictures, answer.found, names, strict=True):
        draw_detections(read_picture(path, limits), found, palette=palette).save(place / name)
    if len(names) == 1:
        return place / names[0]
    archive_path = place / "pictures.zip"
    with zipfile.ZipFile(archive_path, "w") as archive:  # PNG is compressed already
        for name in names:
            archive.write(place / name, name)
    return archive_path


def _labelled(asked: Asked, answer: Answer) -> list[LabelledImage]:
    names = names_of(asked.pictures)
    return [
        LabelledImage(f"{stem}{Path(name).suffix}", found)
        for stem, name, found in zip(_stems(asked.pictures), names, answer.found, strict=True)
    ]


def _stems(pictures: Sequence[str]) -> list[str]:
    """Names without endings; two uploads of one name get a number each."""
    names = names_of(pictures)
    unique = [
        name if name not in names[:number] else f"{number}_{name}"
        for number, name in enumerate(names)
    ]
    stems = unique_stems(unique)
    return [stems[name] for name in unique]


_WRITERS = {"coco": _write_coco, "yolo": _write_yolo, "png": _write_pictures}
