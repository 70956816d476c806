"""One step of image-text pretraining: pixels and captions to a loss.

Shapes: B pairs, E embedding width.
"""

import math

import torch
from torch import Tensor, nn

from owlkit.engine.task import NO_TOKENIZER
from owlkit.errors import ConfigError
from owlkit.losses.contrastive import clip_loss
from owlkit.models import DualEncoder
from owlkit.structures import PairBatch

# The factor may not pass 100, as in CLIP, 2021, https://arxiv.org/abs/2103.00020, section 2.5.
_LARGEST_LOGIT_SCALE = math.log(100)


class ContrastiveTask(nn.Module):
    """Trains a dual encoder with the CLIP loss.

    A pair is contrasted with the others of the batch that it is given; each of several processes
    contrasts its own share.

    Args:
        model: Image and text tower with a tokenizer.

    Raises:
        ConfigError: If the model has no tokenizer.
    """

    colours: Tensor

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        if model.tokenizer is None:
            raise ConfigError(NO_TOKENIZER)
        self.model = model
        colours = torch.tensor([model.preprocessing.mean, model.preprocessing.std])
        self.register_buffer("colours", colours[:, :, None, None] * 255, persistent=False)

    def forward(self, batch: PairBatch) -> dict[str, Tensor]:
        """Returns ``loss`` to minimise, and the share of images that find their text.

        Args:
            batch: B images with one caption each.
        """
        mean, std = self.colours
        if self.training:
            with torch.no_grad():
                self.model.logit_scale.clamp_(0, _LARGEST_LOGIT_SCALE)
        images = self.model.encode_images((batch.images.contiguous() - mean) / std)
        texts = self.model.encode_strings(batch.texts)
        loss = clip_loss(images, texts, self.model.logit_scale.exp())
        return {"loss": loss, "accuracy": _accuracy(images.detach(), texts.detach())}


def _accuracy(images: Tensor, texts: Tensor) -> Tensor:
    """Share of images whose own text is the nearest of the batch."""
    nearest = (images @ texts.mT).argmax(dim=1)
    return (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean()
