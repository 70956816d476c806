"""Images that have one class each: a folder per class, or arrays in one file.

Shapes: N images, H and W their size in pixels, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
from numpy.typing import NDArray

from owlkit.data.image_sources import ImageFiles, ImageSource, find_images
from owlkit.errors import DatasetError

# What the reader raises for a file that is cut off, packed otherwise, or something else.
_DAMAGE = (OSError, ValueError, EOFError, TypeError, RuntimeError, BadZipFile, ZlibError)
_ARRAYS = "`images` uint8 [N, H, W, 3] or [N, H, W] and `labels` [N]"


@dataclass(frozen=True, eq=False)
class ImageArray:
    """Pictures in one array, uint8 [N, H, W, 3] or, if grey, [N, H, W]."""

    path: Path
    images: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, *, at_least: int | None = None) -> NDArray[np.uint8]:
        """One picture as RGB, uint8 [H, W, 3], always whole; grey is repeated."""
        image = self.images[index]
        return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)

    def where(self, index: int) -> str:
        """The file and the row of a picture."""
        return f"{self.path}[{index}]"


@dataclass(frozen=True, eq=False)
class ClassImages:
    """Images, each of one class.

    Attributes:
        names: What the classes are called, C of them.
        labels: Class of each image, int64 [N], in [0, C).
        source: Gives the pictures.
        keys: What the classes are called in the data, whatever ``names`` says; empty where the data
            does not say.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64]
    source: ImageSource
    keys: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int, *, at_least: int | None = None) -> NDArray[np.uint8]:
        """One picture as RGB, uint8 [H, W, 3].

        Args:
            index: Its row.
            at_least: Pixels of the longer side that are enough; None for a whole picture.

        Raises:
            ImageError: If it cannot be read.
        """
        return self.source.read(index, at_least=at_least)

    def where(self, index: int) -> str:
        """The place of a picture, for messages."""
        return self.source.where(index)


def read_class_images(path: Path, *, names: Sequence[str] | None = None) -> ClassImages:
    """Finds images and their classes.

    Args:
        path: A folder with one folder per class, which hold images at any depth; or an ``.npz``
            file with ``images`` (uint8 [N, H, W, 3] or [N, H, W]), ``labels`` (whole numbers [N])
            and ``label_names`` (texts [C]).
        names: What the classes are called, instead of the names in the data; in the order of their
            numbers, which is that of the alphabet for folders.

    Raises:
        DatasetError: If there are no images, or classes and names do not fit.
    """
    if path.is_dir():
        return _read_folder(path, names)
    if path.suffix.lower() == ".npz" and path.is_file():
        return _read_arrays(path, names)
    found = "another file" if path.exists() else "nothing there"
    raise DatasetError(
        f"{path}: expected a folder with one folder per class, or a file .npz with {_ARRAYS}; "
        f"found {found}"
    )


def _read_folder(path: Path, names: Sequence[str] | None) -> ClassImages:
    folders = sorted(
        folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".")
    )
    images = [find_images(folder) for folder in folders]
    if not folders:
        raise DatasetError(f"{path}: expected one folder per class, found no folder")
    empty = [folder.name for folder, found in zip(folders, images, strict=True) if not found]
    if empty:
        raise DatasetError(
            f"{path}: expected images in the folder of each of {len(folders)} classes, found none "
            f"in {len(empty)}: {', '.join(empty[:5])}"
        )
    keys = tuple(folder.name for folder in folders)
    called = keys if names is None else tuple(names)
    if len(called) != len(folders):
        raise DatasetError(
            f"{path}: expected a name for each of {len(folders)} folders, found {len(called)} names"
        )
    return ClassImages(
        names=called,
        labels=np.repeat(np.arange(len(folders)), [len(found) for found in images]),
        source=ImageFiles(tuple(file for found in images for file in found)),
        keys=keys,
    )


def _read_arrays(path: Path, names: Sequence[str] | None) -> ClassImages:
    arrays = _load(path)
    images, labels = arrays["images"], arrays["labels"]
    grey = images.ndim == 3
    if images.dtype != np.uint8 or not (grey or (images.ndim == 4 and images.shape[3] == 3)):
        raise DatasetError(
            f"{path}: expected {_ARRAYS}, found images {images.dtype} {list(images.shape)}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1] or not len(labels):
        raise DatasetError(
            f"{path}: expected {_ARRAYS}, found labels {labels.dtype} {list(labels.shape)} for "
            f"{len(images)} images"
        )
    keys = tuple(map(str, arrays["label_names"].ravel())) if "label_names" in arrays else ()
    if names is None:
        if "label_names" not in arrays:
            raise DatasetError(f"{path}: expected `label_names`, found {', '.join(arrays)}")
        names = keys
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= len(names):
        raise DatasetError(
            f"{path}: expected labels from 0 to {len(names) - 1}, one for each name; "
            f"found {lowest} to {highest}"
        )
    return ClassImages(tuple(names), labels.astype(np.int64), ImageArray(path, images), keys)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file; ``images`` and ``labels`` are among them."""
    try:
        # Pickled objects could run code.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except _DAMAGE as error:
        raise DatasetError(f"{path}: expected an .npz with {_ARRAYS}, found: {error}") from error
    if not {"images", "labels"} <= arrays.keys():
        raise DatasetError(f"{path}: expected {_ARRAYS}, found {', '.join(arrays) or 'nothing'}")
    return arrays
