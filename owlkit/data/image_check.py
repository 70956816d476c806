"""The pictures that annotations speak of: are they there, can they be read, have they that size?"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from owlkit.data.coco_json import ImageEntry
from owlkit.data.dataset_report import Finding, Findings
from owlkit.errors import DatasetError, ImageError
from owlkit.images import load_image, read_image_size

Check = Literal["names", "header", "decode"]
"""That the file exists; also that its header states the annotated size; also that it decodes."""

MAX_LOST = 0.01
"""Largest share of a data set's images that may be dropped."""

LAYOUT = (
    "COCO as downloaded has annotations/instances_train2017.json and "
    "annotations/instances_val2017.json, whose images lie in train2017/*.jpg and val2017/*.jpg; "
    "LVIS uses the same images and is given the folder above them"
)
_IMAGES_PER_JOB = 64


@dataclass(frozen=True)
class _Answer:
    """What was found out about one image: its file, or why it is dropped."""

    path: Path | None
    fault: Finding | None = None
    detail: str = ""


def find_images(
    folder: Path, entries: Sequence[ImageEntry], check: Check, *, setting: str, findings: Findings
) -> list[Path | None]:
    """Finds the file of each image and looks at it, many at a time.

    A file is looked for under each of the entry's names, in that order, then with slashes for their
    backslashes. The size must be that of
    the upright picture, which is how :func:`owlkit.images.load_image` gives it: boxes drawn on a
    picture whose EXIF orientation was ignored do not fit it.

    Args:
        folder: What the file names are relative to.
        entries: The images.
        check: How closely to look.
        setting: What messages call the folder.
        findings: Where faults are counted.

    Returns:
        The file of each entry, None for a dropped image.

    Raises:
        DatasetError: If more than ``MAX_LOST`` of the images are dropped.
    """
    jobs = [
        entries[start : start + _IMAGES_PER_JOB]
        for start in range(0, len(entries), _IMAGES_PER_JOB)
    ]
    with ThreadPoolExecutor() as pool:
        done = pool.map(lambda job: [_look_at(folder, entry, check) for entry in job], jobs)
        answers = [answer for job in done for answer in job]
    for entry, answer in zip(entries, answers, strict=True):
        if answer.fault:
            findings.add(answer.fault, f"image {entry.id}: {answer.detail}")
    _stop_if_too_many_are_lost(folder, answers, setting, findings)
    return [answer.path for answer in answers]


def _look_at(folder: Path, entry: ImageEntry, check: Check) -> _Answer:
    # Files that were listed on Windows separate folders by backslashes.
    slashed = [name.replace("\\", "/") for name in entry.file_names]
    names = list(dict.fromkeys([*entry.file_names, *slashed]))
    for name in names:
        if _leaves_folder(name):
            return _Answer(None, Finding.OUTSIDE_FOLDER, f"{name!r} below {folder}")
    paths = [folder / name for name in names]
    # Unlike Path.is_file, this takes names that no file system takes.
    path = next((path for path in paths if os.path.isfile(path)), None)
    if path is None:
        return _Answer(None, Finding.MISSING_IMAGE, f"no {' or '.join(map(str, paths))}")
    if check == "names":
        return _Answer(path)
    try:
        size = read_image_size(path) if check == "header" else load_image(path).shape[1::-1]
    except ImageError as error:
        return _Answer(None, Finding.UNREADABLE_IMAGE, str(error))
    if size != (entry.width, entry.height):
        expected, found = f"{entry.width}x{entry.height}", f"{size[0]}x{size[1]}"
        return _Answer(None, Finding.WRONG_SIZE, f"annotated {expected}, {path} is {found} upright")
    return _Answer(path)


def _leaves_folder(name: str) -> bool:
    path = Path(name)
    return path.is_absolute() or bool(path.drive) or ".." in path.parts


def _stop_if_too_many_are_lost(
    folder: Path, answers: Sequence[_Answer], setting: str, findings: Findings
) -> None:
    lost = sum(answer.path is None for answer in answers)
    if lost <= MAX_LOST * len(answers):
        return
    lines = [
        f"{folder}: expected the images of the data set, of which at most {MAX_LOST:.0%} may be "
        f"dropped, found that {lost} of {len(answers)} are:"
    ]
    for kind, examples in findings.examples.items():
        lines.append(f"  {findings.counts[kind]} x {kind.title}")
        lines += [f"      {example}" for example in examples]
    if findings.counts[Finding.MISSING_IMAGE]:
        lines.append(f"  Set {setting} to the folder that file names are relative to. {LAYOUT}.")
    raise DatasetError("\n".join(lines))
