"""Reading the image files of a data set quickly.

:func:`owlkit.images.load_image` is the reference. OpenCV decodes ordinary JPEGs in less time and
can leave out resolution that nobody needs; every other file, and every file that looks damaged,
goes to the reference, which reads it or says what is wrong with it.
"""

import os
from math import ceil
from pathlib import Path
from struct import unpack_from
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from owlkit.images import MAX_PIXELS, decode_image, load_image

# OpenCV's flags for decoding at a fraction of the size, coarsest first.
_REDUCED = (
    (8, cv2.IMREAD_REDUCED_COLOR_8),
    (4, cv2.IMREAD_REDUCED_COLOR_4),
    (2, cv2.IMREAD_REDUCED_COLOR_2),
)
_END_OF_IMAGE = b"\xff\xd9"
# Markers in the range of JPEG's frame headers that are something else.
_NO_FRAMES = (0xC4, 0xC8, 0xCC)


def read_rgb(path: str | os.PathLike[str], *, at_least: int | None = None) -> NDArray[np.uint8]:
    """Reads an image file as upright RGB.

    Of a damaged JPEG that still has its last bytes, what can be decoded is returned, as by the
    reference.

    Args:
        path: A file; no URL.
        at_least: Pixels of the longer side that are enough. A JPEG is decoded at 1/2, 1/4 or 1/8 of
            its size (sides rounded up) if as many are left; the other formats always come whole.
            Boxes must then be scaled, each axis by decoded over annotated size. None for whole.

    Returns:
        uint8 [H, W, 3], C-contiguous. Whole JPEGs differ from the reference by a few grey levels.

    Raises:
        ImageError: If the file is missing, cut off or no image; names the path.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError):
        return load_image(path)
    image = _decode_ordinary_jpeg(data, at_least)
    return load_image(path) if image is None else image


def decode_rgb(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decodes what an image file holds, as :func:`read_rgb` does.

    Args:
        data: The bytes of the file.
        name: Of the file, for messages.

    Raises:
        ImageError: If it cannot be decoded; says the name.
    """
    image = _decode_ordinary_jpeg(data, None)
    return decode_image(data, name) if image is None else image


def _decode_ordinary_jpeg(data: bytes, at_least: int | None) -> NDArray[np.uint8] | None:
    """RGB of a JPEG that OpenCV reads well; None for everything else."""
    size = _ordinary_jpeg_size(data)
    if size is None or size[0] * size[1] > MAX_PIXELS:
        return None
    return _decode(data, _flag(max(size), at_least))


def _flag(longer: int, at_least: int | None) -> int:
    """OpenCV's flag for the smallest decoded size that is enough."""
    if at_least is not None:
        for divisor, flag in _REDUCED:
            if ceil(longer / divisor) >= at_least:
                return flag
    return cv2.IMREAD_COLOR_RGB


def _decode(data: bytes, flag: int) -> NDArray[np.uint8] | None:
    """Decodes to RGB; None if OpenCV cannot."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:
        return None
    if image is not None and flag != cv2.IMREAD_COLOR_RGB:
        # The reduced sizes exist in OpenCV's own order of channels only.
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    return cast("NDArray[np.uint8] | None", image)


def use_one_thread(worker: int = 0) -> None:
    """Keeps OpenCV from starting threads in this process: a loader's workers are parallel already.

    Made to be the ``worker_init_fn`` of :class:`torch.utils.data.DataLoader`.

    Args:
        worker: The worker's number; not used.
    """
    cv2.setNumThreads(0)


def _ordinary_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a complete 8-bit grey or colour JPEG; None for any other file.

    A file that does not stop at the end of its image may be cut off. Not every version of OpenCV
    minds: some paint the rest grey. Pillow and OpenCV also mix four inks differently.
    """
    if not (data.startswith(b"\xff\xd8") and data.endswith(_END_OF_IMAGE)):
        return None
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        length, bits, height, width, channels = unpack_from(">HBHHB", data, position + 2)
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
            return (height, width) if bits == 8 and channels in (1, 3) else None
        position += 2 + length
    return None
