"""Named tensor results that cross package borders.

Shapes: B images, P patches (row-major over the grid), D tower width, E embedding width, Q queries
per image, M boxes per image, U distinct texts, G global and L local crops per image, S and s their
sides in pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
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


@dataclass(frozen=True)
class DetectionTargets:
    """What there is to find in a batch of images.

    Attributes:
        boxes: cxcywh in [0, 1] of the model input [B, M, 4], float32; zeros where there is no box.
            The boxes of an image come first, its padding last.
        labels: 1 where a box is an instance of a query [B, M, Q], float32. A box may answer to
            several queries, and to none (then only its place is learned).
        box_mask: True where there is a box [B, M].
        query_mask: True where a query takes part in the loss [B, Q].
        divisors: What the loss divides the terms of each image by [B, 4], see
            ``DetectionLoss.divisors``. Slices keep those of the whole batch. None leaves it to the
            loss to count these targets alone.
    """

    boxes: Tensor
    labels: Tensor
    box_mask: Tensor
    query_mask: Tensor
    divisors: Tensor | None = None

    def __getitem__(self, index: slice) -> "DetectionTargets":
        """The targets of a slice of the batch, sharing memory."""
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "DetectionTargets":
        """The targets on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "DetectionTargets":
        """A copy in page-locked memory, from which transfers to a GPU can overlap."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "DetectionTargets":
        return DetectionTargets(
            boxes=function(self.boxes),
            labels=function(self.labels),
            box_mask=function(self.box_mask),
            query_mask=function(self.query_mask),
            divisors=None if self.divisors is None else function(self.divisors),
        )


@dataclass(frozen=True)
class DetectionBatch:
    """A batch of training examples as the loader makes it.

    Attributes:
        images: RGB, not normalised, uint8 [B, 3, H, W]; the loader lays them out channels last.
        texts: The distinct query strings of the batch, U of them.
        queries: Row of ``texts`` of each image's queries, int64 [B, Q]; padding points to row 0.
        targets: What there is to find.
        sources: For each example, the files it was made from, as one string for messages.
        images_read: Image files that were opened for the whole batch, unreadable ones included;
            mosaics need many. A slice keeps this number and ``corrupt``.
        corrupt: Files that could not be read and were replaced by others.
    """

    images: Tensor
    texts: tuple[str, ...]
    queries: Tensor
    targets: DetectionTargets
    sources: tuple[str, ...]
    images_read: int
    corrupt: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice) -> "DetectionBatch":
        """The examples of a slice, sharing memory; texts they do not ask for stay in the list."""
        return replace(
            self,
            images=self.images[index],
            queries=self.queries[index],
            targets=self.targets[index],
            sources=self.sources[index],
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "DetectionBatch":
        """The batch on another device."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            queries=self.queries.to(device, non_blocking=non_blocking),
            targets=self.targets.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "DetectionBatch":
        """A copy in page-locked memory; torch's loader calls this."""
        return replace(
            self,
            images=self.images.pin_memory(),
            queries=self.queries.pin_memory(),
            targets=self.targets.pin_memory(),
        )


@dataclass(frozen=True)
class PairBatch:
    """A batch of images, each with a caption.

    Attributes:
        texts: One caption per image, B of them.
        identities: What each pair means, int64 [B]; pairs with equal numbers are positives of each
            other, not negatives.
        sources: File of each image.
        images: RGB, not normalised, uint8 [B, 3, H, W]; the loader lays them out channels last.
            None where ``pooled`` stands for them.
        pooled: What a locked image tower made of the images, float32 [B, Dp], or None.
        views: Two strong views of each image for SimCLR, uint8 [B, 2, 3, H, W], or None.
        corrupt: Files that could not be read and were replaced by others.
        replay: What the parts of a batch know about the whole; exact accumulation sets it.
    """

    texts: tuple[str, ...]
    identities: Tensor
    sources: tuple[str, ...]
    images: Tensor | None = None
    pooled: Tensor | None = None
    views: Tensor | None = None
    corrupt: tuple[str, ...] = ()
    replay: Any | None = None

    @property
    def images_read(self) -> int:
        """Image files that were opened, unreadable ones included."""
        return len(self) + len(self.corrupt)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: slice) -> "PairBatch":
        """The pairs of a slice, sharing memory."""
        part = replace(
            self,
            texts=self.texts[index],
            sources=self.sources[index],
            replay=None if self.replay is None else self.replay[index],
        )
        return part._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "PairBatch":
        """The batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PairBatch":
        """A copy in page-locked memory; torch's loader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "PairBatch":
        return replace(
            self,
            identities=function(self.identities),
            images=None if self.images is None else function(self.images),
            pooled=None if self.pooled is None else function(self.pooled),
            views=None if self.views is None else function(self.views),
        )


@dataclass(frozen=True)
class CropBatch:
    """A batch of images as self-supervised training sees them: crops, without any label.

    Attributes:
        global_crops: Large crops, RGB, not normalised, uint8 [B, G, 3, S, S]; the loader lays them
            out channels last.
        sources: File of each image, B of them.
        local_crops: Small crops, uint8 [B, L, 3, s, s], or None.
        masks: True where a patch of a global crop is hidden from the student, bool [B, G, P], or
            None where nothing is hidden.
        corrupt: Files that could not be read and were replaced by others.
    """

    global_crops: Tensor
    sources: tuple[str, ...]
    local_crops: Tensor | None = None
    masks: Tensor | None = None
    corrupt: tuple[str, ...] = ()

    @property
    def images_read(self) -> int:
        """Image files that were opened, unreadable ones included."""
        return len(self) + len(self.corrupt)

    def __len__(self) -> int:
        return len(self.global_crops)

    def __getitem__(self, index: slice) -> "CropBatch":
        """The images of a slice, sharing memory."""
        part = replace(self, sources=self.sources[index])
        return part._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "CropBatch":
        """The batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "CropBatch":
        """A copy in page-locked memory; torch's loader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "CropBatch":
        return replace(
            self,
            global_crops=function(self.global_crops),
            local_crops=None if self.local_crops is None else function(self.local_crops),
            masks=None if self.masks is None else function(self.masks),
        )
