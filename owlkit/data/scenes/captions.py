"""Captions that name every object of a scene."""

from collections.abc import Sequence

import numpy as np

_WITH_ARTICLES = (
    "{}",
    "a picture of {}",
    "a photo of {}",
    "there is {}",
    "{} in a picture",
    "an image that shows {}",
)
_WITHOUT_ARTICLES = ("{}",)


def write_captions(rng: np.random.Generator, names: Sequence[str], count: int) -> tuple[str, ...]:
    """Describes a scene in several sentences, each with its own wording and order of objects.

    Args:
        rng: The scene's random numbers.
        names: "red star", one per object.
        count: Number of sentences, at most 7.

    Example:
        >>> write_captions(np.random.default_rng(0), ["red star", "blue ring"], 2)
        ('a photo of a red star and a blue ring', 'a blue ring and a red star in a picture')
    """
    wordings = [(pattern, "a ") for pattern in _WITH_ARTICLES]
    wordings += [(pattern, "") for pattern in _WITHOUT_ARTICLES]
    captions = []
    for chosen in rng.permutation(len(wordings))[:count]:
        pattern, article = wordings[chosen]
        phrases = [article + names[place] for place in rng.permutation(len(names))]
        captions.append(pattern.format(_enumerate(phrases)))
    return tuple(captions)


def _enumerate(phrases: Sequence[str]) -> str:
    """Joins "a", "b", "c" to "a, b and c"."""
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"
