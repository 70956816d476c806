"""Strong copies of images, as people make them: cropped, squashed, recoloured, written upon.

A stand-in for the "strong" subset of Copydays [0], whose copies were made by hand and cannot be
made again: numbers measured with one say little about the other.

Shapes: h, w pixels of an image.

- [0]: Evaluation of GIST descriptors for web-scale image search, 2009,
  https://lear.inrialpes.fr/~jegou/data.php
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from owlkit.evaluation.feature_cache import Images
from owlkit.visualize import load_font

_OTHERS = 3
"""So many changes besides the crop."""

_WORDS = ("SALE", "breaking news", "@copy", "2009", "lol", "www.example.org", "NEW!")


@dataclass(frozen=True, eq=False)
class StrongCopies:
    """One copy of each image, read like the images themselves.

    Attributes:
        originals: N images.
        seed: Copy i depends on it and on i alone.
    """

    originals: Images
    seed: int = 0

    def __len__(self) -> int:
        """N."""
        return len(self.originals)

    def read(self, index: int) -> NDArray[np.uint8]:
        """The copy of one image, uint8 [h, w, 3]; raises ImageError if that cannot be read."""
        return make_copy(self.originals.read(index), np.random.default_rng((self.seed, index)))

    def where(self, index: int) -> str:
        """Whose copy it is."""
        return f"copy {self.seed} of {self.originals.where(index)}"


def make_copy(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """A part of the image, changed in three of six other ways in random order.

    Args:
        image: uint8 [h, w, 3].
        generator: Draws the part (30 to 70 % of the area), the ways and how strong they are.

    Returns:
        uint8, of another size.
    """
    copy = _crop(Image.fromarray(image), generator)
    for number in generator.permutation(len(_CHANGES))[:_OTHERS]:
        copy = _CHANGES[number](copy, generator)
    return np.array(copy)


def _crop(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    share = generator.uniform(0.3, 0.7) ** 0.5
    width, height = (max(1, round(share * side)) for side in image.size)
    left = int(generator.integers(image.width - width + 1))
    top = int(generator.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _squash(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Another aspect ratio, up to twice as wide or as high, of equal area."""
    stretch = 2 ** generator.uniform(-0.5, 0.5)
    width, height = max(1, round(image.width * stretch)), max(1, round(image.height / stretch))
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _recolour(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(generator.uniform(0.4, 1.6))
    return image


def _blur(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Up to 2 % of the image's side."""
    side = (image.width * image.height) ** 0.5
    return image.filter(ImageFilter.GaussianBlur(side * generator.uniform(0.005, 0.02)))


def _compress(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """JPEG of low quality."""
    stream = BytesIO()
    image.save(stream, format="JPEG", quality=int(generator.integers(5, 30)))
    stream.seek(0)
    return Image.open(stream).convert("RGB")


def _write(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A line of text across the image."""
    image = image.copy()
    text = _WORDS[generator.integers(len(_WORDS))]
    font = load_font(None, max(4.0, min(image.size) * generator.uniform(0.12, 0.25)))
    place = generator.uniform(0, 0.4) * image.width, generator.uniform(0, 0.8) * image.height
    draw = ImageDraw.Draw(image)
    draw.text(place, text, fill=_colour(generator), font=font)
    return image


def _paste(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A rectangle of one colour over up to a fifth of the image."""
    image = image.copy()
    share = generator.uniform(0.2, 0.45)
    width, height = (max(1, round(share * side)) for side in image.size)
    left = int(generator.integers(image.width - width + 1))
    top = int(generator.integers(image.height - height + 1))
    image.paste(_colour(generator), (left, top, left + width, top + height))
    return image


def _colour(generator: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in generator.integers(0, 256, 3))
    return red, green, blue


_CHANGES: tuple[Callable[[Image.Image, np.random.Generator], Image.Image], ...] = (
    _squash,
    _recolour,
    _blur,
    _compress,
    _write,
    _paste,
)
