"""One step of detector training: pictures, queries and boxes to a loss.

Shapes: B images, P patches, Q queries per image, U distinct texts, L tokens, E embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from owlkit.encoders.tokenizer import Tokenizer
from owlkit.engine.pixels import PixelScaler
from owlkit.engine.task import NO_TOKENIZER
from owlkit.errors import ConfigError
from owlkit.losses import DetectionLoss
from owlkit.models import OwlDetector
from owlkit.models.token_dropping import keep_by_variance
from owlkit.structures import DetectionBatch

# Some million token ids: more texts than a closed vocabulary has prompts, little memory.
_MOST_CACHED_TEXTS = 200_000


class DetectionTask(nn.Module):
    """Trains a detector with set matching, as OWL-ViT [0] and OWLv2 [1].

    - [0]: Simple Open-Vocabulary Object Detection with Vision Transformers, 2022,
      https://arxiv.org/abs/2205.06230
    - [1]: Scaling Open-Vocabulary Object Detection, 2023, https://arxiv.org/abs/2306.09683

    Args:
        detector: Has a tokenizer.
        loss: Compares its output with the targets.
        drop_patches: Share of patches, those of least variance, that never enter the image tower in
            training.
        objectness_top_k: Classes and boxes are learned for so many patches of highest objectness;
            None for all. Needs the objectness head.

    Raises:
        ConfigError: If the detector lacks what these arguments need.
    """

    def __init__(
        self,
        detector: OwlDetector,
        loss: DetectionLoss,
        *,
        drop_patches: float = 0.0,
        objectness_top_k: int | None = None,
    ) -> None:
        super().__init__()
        if detector.tokenizer is None:
            raise ConfigError(NO_TOKENIZER)
        if objectness_top_k is not None and detector.objectness_head is None:
            raise ConfigError("objectness_top_k needs a detector with an objectness head")
        if drop_patches and not detector.vision.is_vit:
            raise ConfigError(
                f"drop_patches needs a vision transformer, found {detector.vision.name}"
            )
        self.model = detector
        self.loss = loss
        self.drop_patches = drop_patches
        self.objectness_top_k = objectness_top_k
        self._tokens = _TokenCache(
            detector.tokenizer, to_full_length=detector.text.needs_full_length
        )
        self.pixels = PixelScaler(detector.preprocessing)

    @property
    def find_unused_parameters(self) -> bool:
        """Whether some weights get no gradient: those that only mask patches or pool them."""
        return self.model.merge == "none" or self.model.vision.mask_token is not None

    def prepare(self, batch: DetectionBatch) -> DetectionBatch:
        """Counts the targets of a whole batch, over all processes, for the losses of its parts."""
        divisors = self.loss.divisors(batch.targets)
        return replace(batch, targets=replace(batch.targets, divisors=divisors))

    def forward(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """Returns ``loss``, to be minimised, and its terms without their weights.

        Args:
            batch: B images; a part of a batch comes from one that :meth:`prepare` returned.

        Returns:
            Scalars in float32: ``loss``, ``classes``, ``l1``, ``giou`` and, for detectors with that
            head, ``objectness``.
        """
        queries = self._encode_queries(batch)
        features = self.model.encode_images(
            self.pixels(batch.images),
            keep=self._choose_patches(batch.images),
            objectness_top_k=self.objectness_top_k if self.training else None,
        )
        logits = self.model.score(features, queries, batch.targets.query_mask)
        losses = self.loss(logits, features.boxes, batch.targets, objectness=features.objectness)
        terms = {
            "loss": losses.total,
            "classes": losses.classes,
            "l1": losses.l1,
            "giou": losses.giou,
        }
        return terms if losses.objectness is None else {**terms, "objectness": losses.objectness}

    def _choose_patches(self, images: Tensor) -> Tensor | None:
        if not self.drop_patches or not self.training:
            return None
        return keep_by_variance(images, self.model.vision.patch_size, drop=self.drop_patches)

    def _encode_queries(self, batch: DetectionBatch) -> Tensor:
        """Embeddings of each image's queries [B, Q, E]; each text is encoded once."""
        # A slice of a batch asks for some of its texts only.
        used, rows = torch.unique(batch.queries, return_inverse=True)
        tokens = self._tokens([batch.texts[index] for index in used.tolist()])
        device = batch.images.device
        embeddings = self.model.encode_text(tokens.ids.to(device), tokens.mask.to(device))  # [U, E]
        return embeddings[rows]


@dataclass(frozen=True)
class _Tokens:
    """Token ids and attention mask [U, L]."""

    ids: Tensor
    mask: Tensor


class _TokenCache:
    """Tokenises each text once in a run; the same few thousand come back every step.

    Args:
        tokenizer: Its rows are cut to the longest text of a call.
        to_full_length: Make all rows as long as the context instead.
    """

    def __init__(self, tokenizer: Tokenizer, *, to_full_length: bool) -> None:
        self._tokenizer = tokenizer
        self._to_full_length = to_full_length
        self._rows: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> _Tokens:
        """The tokens of texts, as the tokenizer itself would return them."""
        if len(self._rows) > _MOST_CACHED_TEXTS:
            self._rows.clear()
        missing = [text for text in texts if text not in self._rows]
        if missing:
            ids, mask = self._tokenizer(missing)
            for text, row, length in zip(missing, ids, mask.sum(dim=1).tolist(), strict=True):
                self._rows[text] = row[:length].clone()
        rows = [self._rows[text] for text in texts]
        lengths = torch.tensor([len(row) for row in rows])
        ids = pad_sequence(rows, batch_first=True, padding_value=self._tokenizer.pad_token_id)
        if self._to_full_length:
            width = self._tokenizer.context_length - ids.shape[1]
            ids = nn.functional.pad(ids, (0, width), value=self._tokenizer.pad_token_id)
        return _Tokens(ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long())
