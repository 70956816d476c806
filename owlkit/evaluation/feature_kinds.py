"""The kinds of vectors that a pair of towers, or an image tower alone, makes of images.

Shapes: B images, P patches, L blocks, D tower width, E width of the vectors.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from owlkit.encoders.vision import VisionTower
from owlkit.errors import TokenError
from owlkit.models.dual_encoder import DualEncoder
from owlkit.structures import PatchFeatures

Kind = Literal["embeddings", "pooled", "layers", "copy"]
"""What an image becomes.

- ``embeddings``: a unit vector to compare; of a pair of towers, in the space of the texts.
- ``pooled``: what the image tower pools, before any projection.
- ``layers``: the pooled vectors of the last blocks, shallowest first, then the mean of the last
  block's patches: (L + 1) D numbers, whose ends are the inputs of a layered linear probe.
- ``copy``: the pooled vector beside the generalised mean of the patches, a unit vector of 2 D
  numbers; tells copies of an image from other images of the same thing.
"""

_MOST_LAYERS = 4
# The power of the generalised mean of patches, and what they are at least before it is taken.
_GEM_POWER = 4.0
_GEM_FLOOR = 1e-6


def image_vectors(model: DualEncoder | VisionTower, pixels: Tensor, kind: Kind) -> Tensor:
    """Vectors of one kind.

    Args:
        model: A pair of towers or an image tower.
        pixels: Normalised images [B, 3, H, W].
        kind: See :data:`Kind`.

    Returns:
        [B, E], where E is that of :func:`vector_width`.

    Raises:
        TokenError: If layers are asked of a tower that is no vision transformer.
    """
    if kind == "embeddings" and isinstance(model, DualEncoder):
        return model.encode_images(pixels)
    tower = image_tower(model)
    if kind == "layers":
        layers = tower.last_layers(pixels, count_layers(tower))
        return torch.cat([*(each.pooled for each in layers), layers[-1].tokens.mean(dim=1)], dim=1)
    features = tower(pixels)
    if kind == "copy":
        return copy_descriptor(features)
    pooled: Tensor = features.pooled
    return F.normalize(pooled, dim=-1) if kind == "embeddings" else pooled


def vector_width(model: DualEncoder | VisionTower, kind: Kind) -> int:
    """How many numbers an image becomes.

    Raises:
        TokenError: If layers are asked of a tower that is no vision transformer.
    """
    tower = image_tower(model)
    if kind == "embeddings" and isinstance(model, DualEncoder):
        return model.text.width
    if kind == "layers":
        return count_layers(tower) * tower.pooled_width + tower.width
    return tower.pooled_width + (tower.width if kind == "copy" else 0)


def image_tower(model: DualEncoder | VisionTower) -> VisionTower:
    """The image tower of a pair, or the tower itself."""
    return model.vision if isinstance(model, DualEncoder) else model


def count_layers(tower: VisionTower) -> int:
    """L: the last four blocks, or all of a tower that has fewer.

    Raises:
        TokenError: If the tower is no vision transformer.
    """
    if not tower.is_vit:
        raise TokenError(f"the layers probe needs a vision transformer, found {tower.name}")
    return min(_MOST_LAYERS, len(tower.model.blocks))


def copy_descriptor(features: PatchFeatures) -> Tensor:
    """The pooled vector beside the generalised mean (power 4) of the patches, normalised.

    Source: DINO, 2021, https://github.com/facebookresearch/dino, eval_copy_detection.py.

    Args:
        features: Of B images.

    Returns:
        Unit rows, float32 [B, 2 D].
    """
    # In half precision fourth powers would overflow.
    patches = features.tokens.float().clamp(min=_GEM_FLOOR)
    generalised = patches.pow(_GEM_POWER).mean(dim=1).pow(1 / _GEM_POWER)
    return F.normalize(torch.cat([features.pooled.float(), generalised], dim=1), dim=1)
