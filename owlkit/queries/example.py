"""An example of a class: a box on an image."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from owlkit.errors import ImageError, QueryError
from owlkit.images import ImageSource, decode_image, describe_source, load_image

Box = tuple[float, float, float, float]

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Example:
    """A box on an image, or an image whose most prominent object is meant.

    Two examples are equal if they show the same, wherever the image comes from.

    Attributes:
        digest: What the image holds: ``file:`` and a hash of the file's bytes, or ``pixels:`` and
            one of the decoded image.
        size: Height and width of the image in pixels.
        box: xyxy in pixels of the image; None for its most prominent object.
        image: Where the image is: a path or URL, an image in memory, or the bytes of an image file;
            None if it was not kept, so that only embeddings speak for it.
    """

    digest: str
    size: tuple[int, int]
    box: Box | None
    image: ImageSource | bytes | None = field(default=None, compare=False, repr=False)

    @classmethod
    def read(cls, image: ImageSource, boxes: ArrayLike | None = None) -> list["Example"]:
        """Reads an image and checks the boxes on it.

        Args:
            image: A path, URL, PIL image or uint8 array [h, w, 3]. A path or URL is kept as such.
            boxes: xyxy in pixels [N, 4] or one box [4]; None for the most prominent object.

        Raises:
            ImageError: If the image cannot be read.
            QueryError: If a box is none, or reaches outside the image by more than a pixel.
        """
        pixels = load_image(image)
        height, width = pixels.shape[:2]
        found = [None] if boxes is None else _checked_boxes(boxes, width, height, image)
        if isinstance(image, str | os.PathLike):
            image = os.fspath(image)
            # The working directory may be another one when the image is needed again.
            image = image if "://" in image else os.path.abspath(image)
        digest = _digest(image, pixels)
        return [cls(digest, (height, width), box, image) for box in found]

    def pixels(self) -> NDArray[np.uint8]:
        """The image, uint8 [h, w, 3], RGB.

        Raises:
            QueryError: If it was not kept, cannot be read, or is not what it was.
        """
        if self.image is None:
            raise QueryError("the example's image was not kept")
        try:
            if isinstance(self.image, bytes):
                # A file from a stranger must not decode to more than it says.
                height, width = self.size
                pixels = decode_image(self.image, "kept image", max_pixels=height * width)
            else:
                pixels = load_image(self.image)
            digest = _digest(self.image, pixels, kind=self.digest.partition(":")[0])
        except (ImageError, OSError) as error:
            raise QueryError(f"the example's image cannot be read: {error}") from error
        if digest != self.digest or pixels.shape[:2] != self.size:
            raise QueryError(f"{self.where}: expected the image of the example, found another one")
        return pixels

    @property
    def where(self) -> str:
        """Where the image is, for messages."""
        if self.image is None:
            return "no image"
        return "kept image" if isinstance(self.image, bytes) else describe_source(self.image)


def _digest(image: ImageSource | bytes, pixels: NDArray[np.uint8], *, kind: str = "") -> str:
    """Files are known by their bytes, which are the same for every decoder."""
    if kind != "pixels":
        if isinstance(image, bytes):
            return f"file:{_hash(image)}"
        if isinstance(image, str | os.PathLike) and "://" not in str(image):
            return f"file:{_hash(Path(image).read_bytes())}"
    height, width = pixels.shape[:2]
    return f"pixels:{_hash(f'{height}x{width} '.encode() + pixels.tobytes())}"


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def _checked_boxes(boxes: ArrayLike, width: int, height: int, image: Any) -> list[Box]:
    try:
        rows = np.array(boxes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise QueryError(f"expected boxes [N, 4] of numbers, found {boxes!r}") from error
    rows = rows[None] if rows.shape == (4,) else rows
    if rows.ndim != 2 or rows.shape[1] != 4 or not len(rows):
        raise QueryError(f"expected one or more boxes [N, 4], found shape {list(rows.shape)}")
    return [_checked_box(row, width, height, describe_source(image)) for row in rows]


def _checked_box(row: NDArray[np.float64], width: int, height: int, where: str) -> Box:
    # A pixel of slack: annotations are often rounded, and some count the last pixel.
    inside = (row >= -1).all() and (row <= np.array([width + 1, height + 1] * 2)).all()
    x0, y0, x1, y1 = row.clip(0, np.array([width, height] * 2)).tolist()
    if not np.isfinite(row).all() or not inside or x1 <= x0 or y1 <= y0:
        raise QueryError(
            f"{where}: expected a box (x0, y0, x1, y1) with an area inside {width}x{height} "
            f"pixels, found {row.tolist()}"
        )
    return x0, y0, x1, y1
