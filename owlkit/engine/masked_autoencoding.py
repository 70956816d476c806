"""One step of masked autoencoding: a few patches of an image to the pixels of all others.

Shapes: B images, P patches, K kept patches, p side of a patch in pixels.
"""

import torch
from torch import Tensor, nn

from owlkit.encoders.masked_decoder import MaskedDecoder
from owlkit.engine.collapse import feature_terms
from owlkit.engine.pixels import PixelScaler
from owlkit.errors import ConfigError
from owlkit.losses import masked_pixel_loss
from owlkit.models import ImageBackbone
from owlkit.structures import CropBatch


class MaskedAutoencodingTask(nn.Module):
    """Trains an encoder to see the whole image in a quarter of it, as MAE [0].

    - [0]: Masked Autoencoders Are Scalable Vision Learners, 2021,
      https://arxiv.org/abs/2111.06377

    Args:
        model: A vision transformer, which sees the kept patches only.
        decoder: Predicts the pixels; its weights learn but are no part of the model.
        mask_ratio: Share of patches that are hidden, drawn anew for each image, in (0, 1).
        normalize_pixels: Predict each patch's pixels relative to its own mean and deviation.

    Raises:
        ConfigError: If the model cannot drop patches, or none or all are to be hidden.
    """

    def __init__(
        self,
        model: ImageBackbone,
        decoder: MaskedDecoder,
        *,
        mask_ratio: float = 0.75,
        normalize_pixels: bool = True,
    ) -> None:
        super().__init__()
        if not model.vision.is_vit:
            raise ConfigError(
                f"MAE drops patches and needs a vision transformer, found {model.vision.name}"
            )
        height, width = model.vision.grid
        patches = height * width
        if not 1 <= int(patches * (1 - mask_ratio)) < patches:
            raise ConfigError(
                f"mask_ratio: expected one that hides some of {patches} patches and keeps some, "
                f"found {mask_ratio}"
            )
        self.model = model
        self.decoder = decoder
        self.mask_ratio = mask_ratio
        self.normalize_pixels = normalize_pixels
        self.pixels = PixelScaler(model.preprocessing)

    @property
    def find_unused_parameters(self) -> bool:
        """Whether some weights get no gradient: a mask token, which the encoder has no use for."""
        return self.model.vision.mask_token is not None

    def forward(self, batch: CropBatch) -> dict[str, Tensor]:
        """Returns ``loss``, to be minimised, and what else is worth a look.

        Args:
            batch: B images; the first global crop of each is what is learned from.

        Returns:
            Scalars in float32: ``loss``; ``mae``, the same; what
            :func:`~owlkit.engine.collapse.feature_terms` says of the pooled vectors.
        """
        images = self.pixels(batch.global_crops[:, 0])
        side = self.model.vision.patch_size
        keep = self._choose_patches(images)
        features = self.model.vision(images, keep=keep)
        loss = masked_pixel_loss(
            self.decoder(features, keep),
            images,
            _hidden(keep, features.grid[0] * features.grid[1]),
            patch_size=side,
            normalize=self.normalize_pixels,
        )
        return {"loss": loss, "mae": loss, **feature_terms(features.pooled)}

    def _choose_patches(self, images: Tensor) -> Tensor:
        """The first patches of a random order, for each image its own, int64 [B, K]."""
        side = self.model.vision.patch_size
        count = (images.shape[-2] // side) * (images.shape[-1] // side)
        noise = torch.rand(len(images), count, device=images.device)
        return noise.argsort(dim=1)[:, : int(count * (1 - self.mask_ratio))]


def _hidden(keep: Tensor, patches: int) -> Tensor:
    """True where a patch is not kept, bool [B, P]."""
    hidden = torch.ones(len(keep), patches, dtype=torch.bool, device=keep.device)
    return hidden.scatter(1, keep, False)
