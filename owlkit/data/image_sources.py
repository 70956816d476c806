"""Pictures without anything said about them: files below a folder, or those of captions.

:class:`owlkit.data.class_images.ClassImages` is a source, too; its labels are not read.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from owlkit.data.captions import CaptionedImage
from owlkit.data.reading import read_rgb
from owlkit.errors import DatasetError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class ImageSource(Protocol):
    """Where pictures come from; rows are counted from 0."""

    def __len__(self) -> int: ...

    def read(self, index: int, *, at_least: int | None = None) -> NDArray[np.uint8]:
        """One picture as RGB, uint8 [H, W, 3]; raises ImageError if it cannot be read.

        ``at_least`` are pixels of the longer side that are enough; large pictures may come smaller.
        """

    def where(self, index: int) -> str:
        """The place of a picture, for messages."""


@dataclass(frozen=True)
class ImageFiles:
    """Pictures in files of their own.

    Attributes:
        paths: Texts, because workers take long to unpickle path objects.
    """

    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int, *, at_least: int | None = None) -> NDArray[np.uint8]:
        """One picture as RGB, uint8 [H, W, 3].

        Args:
            index: Its row.
            at_least: See :func:`owlkit.data.reading.read_rgb`.

        Raises:
            ImageError: If it cannot be read.
        """
        return read_rgb(self.paths[index], at_least=at_least)

    def where(self, index: int) -> str:
        """The file of a picture."""
        return self.paths[index]


def read_images(folder: Path) -> ImageFiles:
    """All image files below a folder, at any depth, as :func:`find_images` finds them.

    Raises:
        DatasetError: If there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise DatasetError(f"{folder}: expected a folder of images, found {found}")
    paths = find_images(folder)
    if not paths:
        raise DatasetError(
            f"{folder}: expected images at any depth, {', '.join(_SUFFIXES)}; found none"
        )
    return ImageFiles(tuple(paths))


def captioned_files(images: Iterable[CaptionedImage]) -> ImageFiles:
    """The image files of captions, each once, in the order of their first captions."""
    return ImageFiles(tuple(dict.fromkeys(str(image.path) for image in images)))


def find_images(folder: Path) -> Sequence[str]:
    """Paths of all image files below a folder, sorted.

    Links to folders are followed, each folder is entered once. What begins with a dot is left out:
    copies of editors and what other systems put beside their files.
    """
    found: list[str] = []
    entered: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        found += [
            os.path.join(place, name)
            for name in names
            if name.lower().endswith(_SUFFIXES) and not name.startswith(".")
        ]
    # By part of the path, so that a folder and what its name begins with are not mixed.
    return sorted(found, key=lambda path: path.split(os.sep))
