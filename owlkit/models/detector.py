"""OWL-ViT and OWLv2: an image tower, a text tower, and heads on every patch.

Shapes: B images, P patches, K kept patches, Q queries, L tokens, D tower width, E embedding width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from owlkit.calibration import Calibration
from owlkit.encoders.text import TextTower
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.encoders.vision import VisionTower
from owlkit.errors import ConfigError, QueryError
from owlkit.geometry import Preprocessing
from owlkit.models import checkpoint
from owlkit.models.convention import Convention, ConventionName
from owlkit.models.heads import ClassHead, PatchMLP, box_bias, score_queries, unit_embeddings
from owlkit.models.strings import check_tokenizer, encode_strings
from owlkit.structures import ImageFeatures

Merge = Literal["class_token", "none"]


class OwlDetector(nn.Module):
    """An open-vocabulary detector whose queries are an input.

    Images and queries are encoded separately and meet in :meth:`score`, so either side can be kept
    and reused. Follows OWL-ViT [0] and, with objectness, OWLv2 [1].

    - [0]: Simple Open-Vocabulary Object Detection with Vision Transformers, 2022,
      https://arxiv.org/abs/2205.06230
    - [1]: Scaling Open-Vocabulary Object Detection, 2023, https://arxiv.org/abs/2306.09683

    Args:
        vision: Image tower.
        text: Text tower; its width is E.
        preprocessing: How images become the tower's input; travels with the weights.
        convention: Numerical choices, see :mod:`owlkit.models.convention`.
        merge: ``class_token`` multiplies each patch by the pooled vector before the merge norm, as
            published; ``none`` only normalises, for towers whose pooled vector has another width.
        objectness: Add OWLv2's query-free head.
        prior_prob: Score of every pair before training.
        tokenizer: Turns strings into ids; None if only ids will be given.

    Attributes:
        image_projection: Projection of the contrastive model that the detector came from, or None.
            Detection does not use it; it is kept so that a checkpoint can go back unchanged.
        logit_scale: Logarithm of that model's temperature factor, likewise unused.
        calibration: What turns logits into probabilities, as measured on labelled images; None for
            the plain sigmoid. :meth:`score` does not use it, predictors do.
        threshold: Where such probabilities are best cut, in [0, 1]; None if nobody measured it.

    Raises:
        ConfigError: If the class token cannot be merged because its width differs.
        CheckpointError: If tokenizer and text tower do not fit together.
    """

    def __init__(
        self,
        vision: VisionTower,
        text: TextTower,
        *,
        preprocessing: Preprocessing,
        convention: Convention,
        merge: Merge = "class_token",
        objectness: bool = False,
        prior_prob: float = 0.01,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__()
        if merge == "class_token" and vision.pooled_width != vision.width:
            raise ConfigError(
                f"merge 'class_token' needs a pooled vector as wide as the patches "
                f"({vision.width}); {vision.name} pools to {vision.pooled_width}; use merge 'none'"
            )
        check_tokenizer(tokenizer, text)
        self.vision = vision
        self.text = text
        self.preprocessing = preprocessing
        self.convention = convention
        self.merge = merge
        self.tokenizer = tokenizer
        gelu = convention.head_gelu
        self.merge_norm = nn.LayerNorm(vision.width, eps=convention.merge_norm_eps)
        self.class_head = ClassHead(vision.width, text.width, prior_prob=prior_prob)
        self.box_head = PatchMLP(vision.width, 4, gelu=gelu)
        self.objectness_head = PatchMLP(vision.width, 1, gelu=gelu) if objectness else None
        self.image_projection: nn.Linear | None = None
        self.logit_scale = nn.Parameter(torch.tensor(2.6592), requires_grad=False)
        self.calibration: Calibration | None = None
        self.threshold: float | None = None

    def keep_projection(self, weight: Tensor, logit_scale: Tensor) -> None:
        """Carries a contrastive model's image projection [E, D] and temperature along."""
        projection = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        projection.weight = nn.Parameter(weight.detach().float().clone(), requires_grad=False)
        self.image_projection = projection
        scale = logit_scale.detach().float().reshape(()).clone()
        self.logit_scale = nn.Parameter(scale, requires_grad=False)

    def encode_images(
        self,
        pixel_values: Tensor,
        *,
        keep: Tensor | None = None,
        objectness_top_k: int | None = None,
    ) -> ImageFeatures:
        """Encodes images once; any number of queries can then be scored.

        Args:
            pixel_values: Preprocessed images [B, 3, H, W].
            keep: Indices of the patches that enter the tower [B, K]; None for all.
            objectness_top_k: Compute classes and boxes only for this many patches, at least 1, of
                highest objectness, in descending order (OWLv2's training-time selection); None for
                all.

        Returns:
            Features of every patch (or of the kept ones, with their indices).

        Raises:
            InputSizeError: If the tower cannot take images of this size.
            ConfigError: If patches are to be selected by objectness and there is no such head.
        """
        patches, grid = self._merged_patches(pixel_values, keep)
        indices = keep
        # Objectness learns to rank patches without moving them [1, section 3.2].
        objectness = self._objectness(patches.detach())
        if objectness_top_k is not None:
            if objectness is None:
                raise ConfigError("objectness_top_k needs a detector with an objectness head")
            if objectness_top_k < 1:
                raise ConfigError(f"objectness_top_k must be at least 1, found {objectness_top_k}")
            count = min(objectness_top_k, objectness.shape[1])
            objectness, best = objectness.topk(count, dim=1)
            patches = patches.gather(1, best[..., None].expand(-1, -1, patches.shape[-1]))
            indices = best if keep is None else keep.gather(1, best)
        class_embeds, logit_shift, logit_scale = self.class_head(patches)
        return ImageFeatures(
            class_embeds=class_embeds,
            boxes=self._boxes(patches, grid, indices),
            logit_shift=logit_shift,
            logit_scale=logit_scale,
            objectness=objectness,
            patches=indices,
        )

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """Merged and normalised patch features, which all heads read [B, h, w, D].

        Args:
            pixel_values: Preprocessed images [B, 3, H, W].
        """
        patches, grid = self._merged_patches(pixel_values, None)
        return patches.reshape(patches.shape[0], *grid, -1)

    def _merged_patches(
        self, pixel_values: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, tuple[int, int]]:
        features = self.vision(pixel_values, keep=keep)
        merged = features.tokens
        if self.merge == "class_token":
            merged = merged * features.pooled[:, None]
        # The heads may be kept in float32 beside a tower in lower precision.
        return self.merge_norm(merged.to(self.merge_norm.weight.dtype)), features.grid

    def _objectness(self, patches: Tensor) -> Tensor | None:
        if self.objectness_head is None:
            return None
        logits: Tensor = self.objectness_head(patches)
        return logits.squeeze(-1)

    def _boxes(self, patches: Tensor, grid: tuple[int, int], indices: Tensor | None) -> Tensor:
        bias = box_bias(grid, size_bias=self.convention.size_bias, device=patches.device)
        if indices is not None:
            bias = bias[indices]  # [B, K, 4]
        # In half precision a sigmoid near 0 or 1 loses whole pixels.
        offsets: Tensor = self.box_head(patches).float()
        return (offsets + bias).sigmoid()

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encodes tokenised queries.

        Args:
            input_ids: Token ids [Q, L].
            attention_mask: 1 for tokens, 0 for padding [Q, L].

        Returns:
            Query embeddings [Q, E]: L2-normalised under the ``hf`` convention, raw under
            ``scenic``. :meth:`score` takes either.

        Raises:
            TokenError: If a query has no end token or too many tokens.
        """
        embeddings: Tensor = self.text(input_ids, attention_mask)
        if self.convention.normalize_text:
            norm: Tensor = torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)
            embeddings = embeddings / norm
        return embeddings

    def encode_strings(self, texts: Sequence[str]) -> Tensor:
        """Tokenises and encodes queries; equal strings are encoded once.

        Args:
            texts: Q strings.

        Returns:
            Query embeddings [Q, E].

        Raises:
            QueryError: If the detector has no tokenizer.
        """
        if self.tokenizer is None:
            raise QueryError("this detector was saved without a tokenizer; give token ids")
        return encode_strings(texts, self.tokenizer, self.text, self.encode_text)

    def score(
        self, features: ImageFeatures, query_embeds: Tensor, query_mask: Tensor | None = None
    ) -> Tensor:
        """Scores every patch against every query.

        Args:
            features: Output of :meth:`encode_images`.
            query_embeds: [Q, E], or one set per image [B, Q, E]; need not be normalised.
            query_mask: True where a query is real [Q] or [B, Q].

        Returns:
            Logits [B, P, Q], float32; the sigmoid is the probability of one query on one box.

        Raises:
            QueryError: If the embeddings do not fit.
        """
        self._check_queries(features, query_embeds, query_mask)
        logits = score_queries(
            features.class_embeds,
            features.logit_shift,
            features.logit_scale,
            unit_embeddings(query_embeds.float()),
        )
        if query_mask is not None:
            masked = ~query_mask.bool().to(logits.device)
            masked = masked[:, None] if masked.ndim == 2 else masked
            logits = logits.masked_fill(masked, self.convention.masked_logit)
        return logits

    def _check_queries(
        self, features: ImageFeatures, query_embeds: Tensor, query_mask: Tensor | None
    ) -> None:
        batch, _, width = features.class_embeds.shape
        shape = list(query_embeds.shape)
        fits = len(shape) == 2 or (len(shape) == 3 and shape[0] == batch)
        if not fits or shape[-1] != width:
            raise QueryError(
                f"query_embeds must be [Q, {width}] or [{batch}, Q, {width}], found {shape}"
            )
        if query_mask is not None and list(query_mask.shape) not in (shape[-2:-1], shape[:-1]):
            raise QueryError(f"query_mask must be {shape[:-1]}, found {list(query_mask.shape)}")

    @property
    def architecture(self) -> dict[str, Any]:
        """What rebuilds the detector around its towers, ready for JSON."""
        return {
            "vision": self.vision.spec,
            "text": self.text.spec,
            "merge": self.merge,
            "objectness": self.objectness_head is not None,
            "image_projection": self.image_projection is not None,
            "convention": self.convention.to_dict(),
        }

    @classmethod
    def from_pretrained(
        cls, folder_or_id: str | Path, convention: ConventionName | None = None
    ) -> "OwlDetector":
        """Loads a detector: owlkit's own folder, or Hugging Face's OWL-ViT or OWLv2.

        Args:
            folder_or_id: A folder, or a hub id such as ``google/owlv2-base-patch16-ensemble``.
            convention: ``scenic`` or ``hf`` to compute as that implementation does; None keeps what
                the checkpoint says (Hugging Face folders say ``hf``).

        Returns:
            The detector in evaluation mode, float32, on the CPU.

        Raises:
            CheckpointError: If the folder is missing, damaged, of a newer format, or does not fit;
                lists every key and shape that is wrong.
        """
        from owlkit.models.loading import load_detector

        return load_detector(folder_or_id, convention)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes owlkit's model folder; an interrupted call leaves what was there before.

        Args:
            folder: A new folder, or one that holds an owlkit model, which is replaced.

        Raises:
            CheckpointError: If the folder holds something else.
        """
        checkpoint.save_folder(folder, kind="detector", model=self)

    def save_huggingface(self, folder: str | Path) -> None:
        """Writes a folder that transformers loads as OWL-ViT or, with objectness, OWLv2.

        Args:
            folder: A new or empty folder.

        Raises:
            CheckpointError: If transformers' classes cannot hold this architecture.
        """
        from owlkit.models.interop.owl import save_owl

        save_owl(self, Path(folder))

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Uploads the model folder to the Hugging Face hub.

        Args:
            repo_id: ``owner/name``; created if it does not exist.
            private: Whether a new repository is private.

        Returns:
            Address of the commit.
        """
        return checkpoint.push_folder(self.save_pretrained, repo_id, private=private)
