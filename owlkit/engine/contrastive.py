"""One step of image-text pretraining: pixels and captions to a loss.

Shapes: B pairs, P patches, K kept patches, Dp pooled width, E embedding width, F width of SimCLR's
projection.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from owlkit.engine.gradient_cache import Embeddings, first_pass, second_pass
from owlkit.engine.objectives import Objective
from owlkit.engine.pixels import PixelScaler
from owlkit.engine.simclr_head import SimclrHead
from owlkit.engine.task import NO_TOKENIZER
from owlkit.errors import ConfigError, DatasetError
from owlkit.losses import nt_xent_loss
from owlkit.models import DualEncoder
from owlkit.structures import PairBatch

# The factor may not pass 100, as in CLIP, 2021, https://arxiv.org/abs/2103.00020, section 2.5.
_LARGEST_LOGIT_SCALE = math.log(100)
# Images whose nearest text is sought at a time: a table of all pairs need never exist.
_CHUNK_SIZE = 256


class ContrastiveTask(nn.Module):
    """Trains a dual encoder: CLIP, SigLIP, LiT, triplets, and any of them with SimCLR as SLIP [0].

    - [0]: SLIP: Self-supervision meets Language-Image Pre-training, 2021,
      https://arxiv.org/abs/2112.12750

    Args:
        model: Image and text tower with a tokenizer.
        objective: Compares the two sides.
        patch_dropout: Share of patches, drawn anew for each image, that never enter the image tower
            in training, in [0, 1); see Scaling Language-Image Pre-training via Masking, 2022,
            https://arxiv.org/abs/2212.00794.
        accumulation: Parts in which a batch passes; all its pairs are compared whatever this says.
        simclr: Projects pooled image vectors for SimCLR; None for none of it. Its weights learn
            but are no part of the model.
        simclr_weight: Of SimCLR's loss beside the objective.

    Raises:
        ConfigError: If the model lacks what these arguments need.
    """

    def __init__(
        self,
        model: DualEncoder,
        objective: Objective,
        *,
        patch_dropout: float = 0.0,
        accumulation: int = 1,
        simclr: SimclrHead | None = None,
        simclr_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if model.tokenizer is None:
            raise ConfigError(NO_TOKENIZER)
        if objective.biased != (model.logit_bias is not None):
            expected, found = ("a", "none") if objective.biased else ("no", "one")
            raise ConfigError(
                f"objective {objective.name}: expected a model with {expected} logit_bias, "
                f"found {found}"
            )
        if patch_dropout and not model.vision.is_vit:
            raise ConfigError(
                f"patch_dropout needs a vision transformer, found {model.vision.name}"
            )
        self.model = model
        self.objective = objective
        self.patch_dropout = patch_dropout
        self.accumulation = accumulation
        self.simclr = simclr
        self.simclr_weight = simclr_weight
        # Published SigLIPs are above it: weights that come calibrated start at what they know. The
        # start is the same in a run that resumes, whose weights are loaded into the built task.
        self._largest_logit_scale = max(_LARGEST_LOGIT_SCALE, model.logit_scale.item())
        self.pixels = PixelScaler(model.preprocessing)

    @property
    def find_unused_parameters(self) -> bool:
        """Whether some weights get no gradient: a temperature or mask token that is not used."""
        return not self.objective.scaled or self.model.vision.mask_token is not None

    def prepare(self, batch: PairBatch) -> PairBatch:
        """Lets the parts of a batch know the whole, if it will pass in parts."""
        if self.accumulation == 1:
            return batch
        replay = first_pass(
            batch,
            parts=self.accumulation,
            module=self,
            embed=self._embed,
            compare=lambda embeddings: self._compare(embeddings, batch.identities),
            parameters=self._loss_parameters,
        )
        return replace(batch, replay=replay)

    def forward(self, batch: PairBatch) -> dict[str, Tensor]:
        """Returns ``loss``, to be minimised, and what else is worth a look.

        In a distributed run pairs are compared over all processes.

        Args:
            batch: B pairs; a part of a batch comes from one that :meth:`prepare` returned, and
                gets the values of the whole.

        Returns:
            Scalars in float32: ``loss``; the objective's own value by its name and, with SimCLR,
            ``simclr``, both without weights; ``accuracy``, the share of images whose nearest text
            of this process's batch means the same; the factor ``logit_scale`` and ``logit_bias``,
            as far as the objective learns them.

        Raises:
            DatasetError: If the batch lacks images or views.
        """
        if batch.replay is None:
            return self._compare(self._embed(batch), batch.identities)
        return second_pass(
            batch,
            batch.replay,
            module=self,
            embed=self._embed,
            parameters=self._loss_parameters,
        )

    @torch.no_grad()
    def finish_step(self) -> None:
        """Keeps the temperature factor in [1, 100], unless it is frozen.

        The upper bound is where it began, if that was above 100.
        """
        if self.model.logit_scale.requires_grad:
            self.model.logit_scale.clamp_(0, self._largest_logit_scale)

    @property
    def _loss_parameters(self) -> list[nn.Parameter]:
        """What the objective learns beside the towers."""
        scale = self.model.logit_scale if self.objective.scaled else None
        used = (scale, self.model.logit_bias)
        return [weight for weight in used if weight is not None and weight.requires_grad]

    def _embed(self, batch: PairBatch) -> Embeddings:
        """Both sides of the pairs [B, E] and, with SimCLR, both views [B, F]; L2-normalised."""
        embeddings = {
            "images": self._embed_images(batch),
            "texts": self.model.encode_strings(batch.texts),
        }
        if self.simclr is None:
            return embeddings
        if batch.views is None:
            raise DatasetError("SimCLR: expected two views of each image, found none in the batch")
        pooled = self._pool(batch.views.flatten(0, 1))  # [2B, Dp]
        views = F.normalize(self.simclr(pooled), dim=-1).view(len(batch), 2, -1)  # [B, 2, F]
        return {**embeddings, "first": views[:, 0], "second": views[:, 1]}

    def _embed_images(self, batch: PairBatch) -> Tensor:
        if batch.pooled is not None:
            return self.model.project_pooled(batch.pooled)
        if batch.images is None:
            raise DatasetError("expected a batch with images or their pooled vectors, found none")
        keep = self._choose_patches(batch.images)
        return self.model.project_pooled(self._pool(batch.images, keep))

    def _pool(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Pooled vectors [B, Dp] of uint8 images; a locked tower keeps no activations."""
        learns = any(weight.requires_grad for weight in self.model.vision.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            return self.model.pool_images(self.pixels(images), keep=keep)

    def _choose_patches(self, images: Tensor) -> Tensor | None:
        """A random subset of each image's patches, int64 [B, K]."""
        if not self.patch_dropout or not self.training:
            return None
        side = self.model.vision.patch_size
        count = (images.shape[-2] // side) * (images.shape[-1] // side)
        kept = max(1, int(count * (1 - self.patch_dropout)))
        return torch.rand(len(images), count, device=images.device).topk(kept).indices

    def _compare(self, embeddings: Mapping[str, Tensor], identities: Tensor) -> dict[str, Tensor]:
        """The terms of a batch from its embeddings."""
        images, texts = embeddings["images"], embeddings["texts"]
        value = self.objective(images, texts, self.model, identities)
        terms = {"loss": value, self.objective.name: value}
        if self.simclr is not None:
            terms["simclr"] = nt_xent_loss(
                embeddings["first"], embeddings["second"], temperature=self.simclr.temperature
            )
            terms["loss"] = value + self.simclr_weight * terms["simclr"]
        terms["accuracy"] = _accuracy(images, texts, identities)
        if self.objective.scaled:
            terms["logit_scale"] = self.model.logit_scale.detach().exp()
        if self.model.logit_bias is not None:
            terms["logit_bias"] = self.model.logit_bias.detach().clone()
        return terms


@torch.no_grad()
def _accuracy(images: Tensor, texts: Tensor, identities: Tensor) -> Tensor:
    """Share of images whose nearest text of the batch means the same as their own."""
    nearest = torch.cat(
        [(rows @ texts.mT).argmax(dim=1) for rows in torch.split(images, _CHUNK_SIZE)]
    )
    return (identities[nearest] == identities).float().mean()
