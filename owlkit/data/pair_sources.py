"""Where pairs of an image and a text come from: captions, or classes put into templates."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from owlkit.data.captions import CaptionedImage
from owlkit.data.class_images import ClassImages
from owlkit.data.reading import read_rgb
from owlkit.errors import ConfigError

_BITS = 63


class PairSource(Protocol):
    """Images that have texts. Rows are counted from 0; all methods but ``read`` are quick."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> NDArray[np.uint8]:
        """The image as RGB, uint8 [H, W, 3]; raises ImageError if it cannot be read."""

    def texts(self, index: int) -> tuple[str, ...]:
        """What may be said about the image; at least one text."""

    def identity(self, index: int, text: str) -> int:
        """A number in [0, 2**63) that is equal for pairs that mean the same, in any process."""

    def group(self, index: int) -> str | None:
        """What the image shares with its look-alikes; None if nothing is known."""

    def where(self, index: int) -> str:
        """The place of the image, for messages."""


class CaptionSource:
    """Images with captions; pairs with equal captions mean the same.

    Args:
        images: At least one.
    """

    def __init__(self, images: Sequence[CaptionedImage]) -> None:
        # Not as records: their paths as objects take the workers long to unpickle.
        self._paths = [str(image.path) for image in images]
        self._captions = [image.captions for image in images]
        self._groups = [image.group for image in images]

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> NDArray[np.uint8]:
        """The image as RGB, uint8 [H, W, 3].

        Raises:
            ImageError: If it cannot be read.
        """
        return read_rgb(Path(self._paths[index]))

    def texts(self, index: int) -> tuple[str, ...]:
        """Its captions."""
        return self._captions[index]

    def identity(self, index: int, text: str) -> int:
        """The number of the caption, see :func:`caption_identity`."""
        return caption_identity(text)

    def group(self, index: int) -> str | None:
        """Its group in the captions file."""
        return self._groups[index]

    def where(self, index: int) -> str:
        """Its file."""
        return self._paths[index]


class ClassSource:
    """Images with classes; pairs of a class mean the same, whatever the template.

    Args:
        images: At least one.
        templates: Texts with ``{}`` in the place of the class's name.

    Raises:
        ConfigError: If there is no template, or one lacks the place.
    """

    def __init__(self, images: ClassImages, templates: Sequence[str]) -> None:
        wrong = [template for template in templates if template.count("{}") != 1]
        if wrong or not templates:
            raise ConfigError(
                f"templates: expected texts with one {{}} for the class, found {wrong or 'none'}"
            )
        self._images = images
        self._labels: list[int] = images.labels.tolist()
        self._texts = [
            tuple(template.replace("{}", name) for template in templates) for name in images.names
        ]

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> NDArray[np.uint8]:
        """The image as RGB, uint8 [H, W, 3].

        Raises:
            ImageError: If it cannot be read.
        """
        return self._images.read(index)

    def texts(self, index: int) -> tuple[str, ...]:
        """The name of its class in each template."""
        return self._texts[self._labels[index]]

    def identity(self, index: int, text: str) -> int:
        """The number of its class."""
        return self._labels[index]

    def group(self, index: int) -> str | None:
        """None: images of a class mean the same, so that they are no hard negatives."""
        return None

    def where(self, index: int) -> str:
        """Its place."""
        return self._images.where(index)


def caption_identity(caption: str) -> int:
    """A number for a caption that is the same in every process and run.

    Args:
        caption: Space around it does not count; upper and lower case do.

    Returns:
        A hash in [0, 2**63). Two of a million captions get one number with a chance of 5e-8.
    """
    digest = blake2b(caption.strip().encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) & ((1 << _BITS) - 1)
