"""Named tensor results that cross package borders.

Shapes: B images, P patches (row-major over the grid), D tower width, E embedding width.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PatchFeatures:
    """What an image tower returns, whatever the backbone.

    Attributes:
        tokens: Patch tokens after the tower's final norm [B, P, D]; [B, K, D] when only a subset of
            K patches was kept.
        pooled: One vector per image: the normalised class token, an attention pool's output, or the
            mean of the tokens, whichever the backbone was trained with [B, Dp].
        grid: Height and width of the full patch grid; ``P == grid[0] * grid[1]``.
    """

    tokens: Tensor
    pooled: Tensor
    grid: tuple[int, int]


@dataclass(frozen=True)
class ImageFeatures:
    """Everything a detector knows about an image before it hears the queries.

    A query's logit on patch p is ``(cosine(class_embeds[p], query) + logit_shift[p]) *
    logit_scale[p]``, so that any number of queries can be answered without the image tower.

    Attributes:
        class_embeds: Image-side embedding of each patch, not normalised [B, P, E].
        boxes: cxcywh in [0, 1] of the model input [B, P, 4], float32.
        logit_shift: Added to the cosine [B, P, 1].
        logit_scale: Positive factor after the shift [B, P, 1].
        objectness: Logit that a patch holds any object [B, P]; None for models without that head.
        patches: Index of each row in the full grid [B, K], where only K patches were kept; else
            None.
    """

    class_embeds: Tensor
    boxes: Tensor
    logit_shift: Tensor
    logit_scale: Tensor
    objectness: Tensor | None = None
    patches: Tensor | None = None

    def __getitem__(self, index: slice) -> "ImageFeatures":
        """The features of a slice of the batch, sharing memory."""
        return self._map(lambda tensor: tensor[index])

    def clone(self) -> "ImageFeatures":
        """A copy with memory of its own."""
        return self._map(lambda tensor: tensor.clone())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "ImageFeatures":
        return ImageFeatures(
            class_embeds=function(self.class_embeds),
            boxes=function(self.boxes),
            logit_shift=function(self.logit_shift),
            logit_scale=function(self.logit_scale),
            objectness=None if self.objectness is None else function(self.objectness),
            patches=None if self.patches is None else function(self.patches),
        )
