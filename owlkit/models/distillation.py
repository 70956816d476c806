"""An image tower with the heads of self-distillation: student or teacher.

Shapes: B images, G global and L local crops of each, P patches of a global crop, M patches read, D
width of the pooled vector, K prototypes. Crops are crop-major: crop 0 of all images, then crop 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from owlkit.encoders.vision import VisionTower
from owlkit.errors import TokenError
from owlkit.models.distillation_heads import DistillationHead
from owlkit.structures import PatchFeatures


@dataclass(frozen=True)
class CropOutputs:
    """What a :class:`CropEncoder` makes of crops.

    Attributes:
        logits: Of the pooled vectors of all crops, global ones first [(G + L) * B, K].
        pooled: The tower's pooled vectors of the global crops [G * B, D].
        patch_logits: Of the patches read, in the order asked for [M, K']; None where none were.
    """

    logits: Tensor
    pooled: Tensor
    patch_logits: Tensor | None


class CropEncoder(nn.Module):
    """Encodes crops of two sizes: DINO's multi-crop [0], and the patches that iBOT [1] hides.

    - [0]: Emerging Properties in Self-Supervised Vision Transformers, 2021,
      https://arxiv.org/abs/2104.14294
    - [1]: iBOT: Image BERT Pre-Training with Online Tokenizer, 2021,
      https://arxiv.org/abs/2111.07832

    Args:
        vision: The tower.
        head: For pooled vectors.
        patch_head: For patch tokens; ``head`` itself where both share one, None without iBOT.
    """

    def __init__(
        self,
        vision: VisionTower,
        head: DistillationHead,
        patch_head: DistillationHead | None = None,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.head = head
        self.patch_head = patch_head

    def forward(
        self,
        global_crops: Tensor,
        local_crops: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        read: Tensor | None = None,
        freeze_prototypes: bool = False,
    ) -> CropOutputs:
        """Encodes crops: one pass of the tower for each size, one of the head for all.

        Args:
            global_crops: Normalised crops [G * B, 3, S, S].
            local_crops: Normalised crops [L * B, 3, s, s]; None where there are none.
            mask: True where a patch of a global crop is replaced by the mask token [G * B, P].
            read: Which patches go through the patch head, int64 [M, 2]: the global crop and the
                place in it of each. For iBOT ``mask.nonzero()``, which on GPUs waits for the mask;
                so it is made once, for student and teacher alike, and before either begins.
            freeze_prototypes: The heads' last layers get no gradient from this call.

        Raises:
            InputSizeError: If the tower cannot take crops of these sizes.
            TokenError: If patches are to be masked or read without a mask token or patch head.
        """
        features: PatchFeatures = self.vision(global_crops, mask=mask)
        pooled = [features.pooled]
        if local_crops is not None:
            pooled.append(self.vision(local_crops).pooled)
        return CropOutputs(
            logits=self.head(torch.cat(pooled), freeze_prototypes=freeze_prototypes),
            pooled=features.pooled,
            patch_logits=self._read_patches(features.tokens, read, freeze_prototypes),
        )

    def _read_patches(self, tokens: Tensor, read: Tensor | None, freeze: bool) -> Tensor | None:
        if read is None:
            return None
        if self.patch_head is None:
            raise TokenError("read: reading patches needs a patch head; found none")
        if read.ndim != 2 or read.shape[1] != 2 or read.dtype != torch.int64:
            raise TokenError(f"read must be int64 [M, 2], found {read.dtype} {list(read.shape)}")
        crops, places = read.unbind(1)
        logits: Tensor = self.patch_head(tokens[crops, places], freeze_prototypes=freeze)
        return logits
