"""File names for labels of images from many folders."""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

# File systems take 255 bytes; numbers, suffixes and scratch files' additions go off.
_LONGEST_STEM = 100
# Lists of images are split at spaces, and other marks have a meaning in a shell or on Windows.
_NOT_PLAIN = re.compile(r"[^\w.-]+")


def unique_stems(file_names: Iterable[str]) -> dict[str, str]:
    """A name without folder and suffix for the labels of each image.

    Letters, digits, ``-``, ``_`` and ``.`` stay, of any script. What would be equal, also where
    a file system does not tell upper from lower case, gets a number.

    Args:
        file_names: Images, with slashes, each once.

    Returns:
        By file name; the same for the same names in the same order.

    Example:
        >>> list(unique_stems(["a/dog 1.jpg", "b/dog 1.png", "b/Dog_1.png"]).values())
        ['dog_1', 'dog_1-2', 'Dog_1-3']
    """
    stems: dict[str, str] = {}
    # The last number of each name, so that thousands of equal ones take no longer than others.
    numbers: dict[str, int] = {}
    taken: set[str] = set()
    for file_name in file_names:
        plain = _plain(PurePosixPath(file_name).stem)
        stem, number = plain, numbers.get(plain.casefold(), 1)
        while stem.casefold() in taken:
            number += 1
            stem = f"{plain}-{number}"
        numbers[plain.casefold()] = number
        taken.add(stem.casefold())
        stems[file_name] = stem
    return stems


def _plain(stem: str) -> str:
    clean = _NOT_PLAIN.sub("_", unicodedata.normalize("NFC", stem)).encode("utf-8")
    return clean[:_LONGEST_STEM].decode("utf-8", "ignore").strip(".") or "image"
