"""One scene from its place in the data set."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from owlkit.data.scenes.captions import write_captions
from owlkit.data.scenes.layout import GROUP, arrange, choose_group, choose_validation
from owlkit.data.scenes.painting import paint
from owlkit.data.scenes.tiers import Tier
from owlkit.data.scenes.vocabulary import CLASS_NAMES

Split = Literal["train", "val"]

_CAPTIONS = 2
_STREAMS = {"train": (0, 1), "val": (2, 3)}  # of random numbers: for groups, for scenes


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and what is in it.

    Attributes:
        image: RGB uint8 [size, size, 3], before JPEG.
        boxes: Tight box of what an object would show in the image if it were alone: cut at the
            border, but not where another object hides it; xyxy pixels [N, 4] in steps of 1/8.
        areas: Square pixels of the same silhouettes [N].
        labels: Indices into ``CLASS_NAMES`` [N], back to front.
        captions: Two sentences that name every object.
        group: Number shared by the training scenes with these colours; None in validation.
        jpeg_quality: Of the file.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    areas: NDArray[np.float32]
    labels: NDArray[np.int64]
    captions: tuple[str, ...]
    group: int | None
    jpeg_quality: int


def draw_scene(tier: Tier, split: Split, index: int, *, seed: int = 0) -> Scene:
    """Draws one scene, which depends on nothing but the arguments.

    Args:
        tier: How hard it is; ``TIERS["easy"]``.
        split: Training scenes come in groups of eight of the same colours, validation scenes do
            not, and their objects are base or novel with equal probability.
        index: Number within the split, from 0.
        seed: Of the data set, from 0.

    Raises:
        DatasetError: If the tier's objects do not fit into its images.

    Example:
        >>> from owlkit.data.scenes import TIERS
        >>> scene = draw_scene(TIERS["easy"], "train", 0)
        >>> scene.image.shape, len(scene.boxes), len(scene.captions)
        ((64, 64, 3), 3, 2)
    """
    group_stream, scene_stream = _STREAMS[split]
    rng = np.random.default_rng([seed, scene_stream, index])
    group = index // GROUP if split == "train" else None
    if group is None:
        labels = choose_validation(rng, tier.objects)
    else:
        group_rng = np.random.default_rng([seed, group_stream, group])
        labels = choose_group(group_rng, tier.objects)[index % GROUP]
    objects = arrange(rng, labels.tolist(), tier)
    return Scene(
        image=paint(rng, objects, tier),
        boxes=np.stack([one.box for one in objects]),
        areas=np.array([one.coverage.sum() for one in objects], np.float32),
        labels=labels,
        captions=write_captions(rng, [CLASS_NAMES[label] for label in labels], _CAPTIONS),
        group=group,
        jpeg_quality=int(rng.integers(*tier.jpeg_quality, endpoint=True)),
    )
