"""Images through the image tower of a backend: to scenes, and to where it looks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owlkit.attention_map import AttentionMaps
from owlkit.backend import Backend
from owlkit.images import ImageSource, load_image
from owlkit.scene import Scene
from owlkit.scene_cache import SceneCache, scene_key


def encode_scenes(
    backend: Backend, images: Sequence[ImageSource], *, cache: SceneCache | None = None
) -> list[Scene]:
    """Encodes a batch of images in one pass.

    Args:
        backend: What runs the networks.
        images: Paths, URLs, PIL images or uint8 arrays [h, w, 3], as many as fit into memory.
        cache: Where features are looked for and kept; None does without.

    Raises:
        ImageError: If an image cannot be read.
    """
    loaded = [load_image(image) for image in images]
    features = _run(backend, loaded) if cache is None else _run_new(backend, loaded, cache)
    scenes = []
    for source, pixels, found in zip(images, loaded, features, strict=True):
        transform = backend.preprocessing.transform((pixels.shape[0], pixels.shape[1]))
        boxes = transform.invert(backend.boxes(found), clip=False)
        scenes.append(Scene(boxes=boxes, transform=transform, features=found, source=source))
    return scenes


def _run(backend: Backend, images: Sequence[NDArray[np.uint8]]) -> list[Any]:
    """Features of decoded images."""
    if not images:
        return []
    return backend.encode_images(np.stack([backend.preprocessing(image)[0] for image in images]))


def _run_new(backend: Backend, images: Sequence[NDArray[np.uint8]], cache: SceneCache) -> list[Any]:
    """Features of decoded images; those of images that the cache knows cost nothing."""
    made_by = f"{backend.identity} {backend.precision}"
    keys = [scene_key(image, made_by) for image in images]
    kept = {key: cache.get(key) for key in keys}
    known = {key: arrays for key, arrays in kept.items() if arrays is not None}
    new = {key: image for key, image in zip(keys, images, strict=True) if key not in known}
    for key, features in zip(new, _run(backend, [*new.values()]), strict=True):
        known[key] = backend.to_arrays(features)
        cache.put(key, known[key])
    return [backend.from_arrays(known[key]) for key in keys]


def read_attention(backend: Backend, images: Sequence[ImageSource]) -> list[AttentionMaps]:
    """Notes where the image tower looks in a batch of images, one or more, in one pass.

    Args:
        backend: What runs the networks.
        images: Paths, URLs, PIL images or uint8 arrays [h, w, 3].

    Raises:
        ConfigError: If the model was exported without attention maps.
        ImageError: If an image cannot be read.
        TokenError: If the image tower is no vision transformer.
    """
    prepared = [backend.preprocessing(load_image(image)) for image in images]
    maps = backend.attention(np.stack([pixels for pixels, _ in prepared]))
    # Copies, so that a map that is kept does not keep its whole batch.
    return [
        AttentionMaps(heads.copy(), transform)
        for heads, (_, transform) in zip(maps, prepared, strict=True)
    ]
