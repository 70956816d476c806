"""CLIP-style pairs of image and text towers.

Shapes: B images or texts, L tokens, E embedding width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from owlkit.encoders.text import TextTower
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.encoders.vision import VisionTower
from owlkit.errors import ConfigError, QueryError
from owlkit.geometry import Preprocessing
from owlkit.models import checkpoint
from owlkit.models.strings import check_tokenizer, encode_strings
from owlkit.structures import PatchFeatures


class DualEncoder(nn.Module):
    """Puts images and texts into one space, as CLIP [0], SigLIP [1] and LiT [2] do.

    - [0]: Learning Transferable Visual Models From Natural Language Supervision, 2021,
      https://arxiv.org/abs/2103.00020
    - [1]: Sigmoid Loss for Language Image Pre-Training, 2023, https://arxiv.org/abs/2303.15343
    - [2]: LiT: Zero-Shot Transfer with Locked-image text Tuning, 2021,
      https://arxiv.org/abs/2111.07991

    Args:
        vision: Image tower.
        text: Text tower; its width is E.
        preprocessing: How images become the tower's input; travels with the weights.
        image_projection: Whether a bias-free projection stands behind the pooled image vector
            (CLIP); without it the pooled width must be E (SigLIP).
        logit_bias: Whether there is a learned bias beside the temperature (SigLIP).
        tokenizer: Turns strings into ids; None if only ids will be given.

    Attributes:
        logit_scale: Logarithm of the temperature factor; starts at ln(1/0.07) as CLIP's or, with a
            bias, at ln(10) as SigLIP's.
        logit_bias: SigLIP's bias, which starts at -10, or None.

    Raises:
        ConfigError: If the widths of the two sides differ.
        CheckpointError: If tokenizer and text tower do not fit together.
    """

    def __init__(
        self,
        vision: VisionTower,
        text: TextTower,
        *,
        preprocessing: Preprocessing,
        image_projection: bool = True,
        logit_bias: bool = False,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__()
        if not image_projection and vision.pooled_width != text.width:
            raise ConfigError(
                f"without an image projection both sides must be equally wide; the image side has "
                f"{vision.pooled_width}, the text side {text.width}"
            )
        check_tokenizer(tokenizer, text)
        self.vision = vision
        self.text = text
        self.preprocessing = preprocessing
        self.tokenizer = tokenizer
        self.image_projection = (
            nn.Linear(vision.pooled_width, text.width, bias=False) if image_projection else None
        )
        if self.image_projection is not None:
            nn.init.normal_(self.image_projection.weight, std=vision.pooled_width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(10.0 if logit_bias else 1 / 0.07).log())
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if logit_bias else None

    def encode_images(self, pixel_values: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """Returns L2-normalised image embeddings [B, E].

        Args:
            pixel_values: Preprocessed images [B, 3, H, W].
            keep: Indices of the patches to keep, int64 [B, K]; None for all.

        Raises:
            InputSizeError: If the tower cannot take images of this size.
            TokenError: If patches are to be dropped and the tower cannot do so.
        """
        return self.project_pooled(self.pool_images(pixel_values, keep=keep))

    def pool_images(self, pixel_values: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """Returns what the image tower alone makes of images: its pooled vectors [B, Dp].

        Args:
            pixel_values: Preprocessed images [B, 3, H, W].
            keep: Indices of the patches to keep, int64 [B, K]; None for all.

        Raises:
            InputSizeError: If the tower cannot take images of this size.
            TokenError: If patches are to be dropped and the tower cannot do so.
        """
        features: PatchFeatures = self.vision(pixel_values, keep=keep)
        return features.pooled

    def project_pooled(self, pooled: Tensor) -> Tensor:
        """Returns L2-normalised image embeddings [B, E] of vectors that :meth:`pool_images` gave.

        Args:
            pooled: Pooled vectors [B, Dp].
        """
        if self.image_projection is not None:
            pooled = self.image_projection(pooled)
        return F.normalize(pooled, dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Returns L2-normalised text embeddings [B, E].

        Args:
            input_ids: Token ids [B, L].
            attention_mask: 1 for tokens, 0 for padding [B, L].

        Raises:
            TokenError: If a text has no end token or too many tokens.
        """
        return F.normalize(self.text(input_ids, attention_mask), dim=-1)

    def encode_strings(self, texts: Sequence[str]) -> Tensor:
        """Tokenises and encodes texts; equal strings are encoded once [B, E].

        Args:
            texts: B strings.

        Raises:
            QueryError: If the model has no tokenizer.
        """
        if self.tokenizer is None:
            raise QueryError("this model was saved without a tokenizer; give token ids")
        return encode_strings(texts, self.tokenizer, self.text, self.encode_text)

    @property
    def architecture(self) -> dict[str, Any]:
        """What rebuilds the model around its towers, ready for JSON."""
        return {
            "vision": self.vision.spec,
            "text": self.text.spec,
            "image_projection": self.image_projection is not None,
            "logit_bias": self.logit_bias is not None,
        }

    @classmethod
    def from_pretrained(cls, folder_or_id: str | Path) -> "DualEncoder":
        """Loads a model: owlkit's own folder, or Hugging Face's CLIP or SigLIP.

        The towers inside a Hugging Face OWL-ViT or OWLv2 load too.

        Args:
            folder_or_id: A folder, or a hub id such as ``openai/clip-vit-base-patch16``.

        Returns:
            The model in evaluation mode, float32, on the CPU.

        Raises:
            CheckpointError: If the folder is missing, damaged, of a newer format, or does not fit;
                lists every key and shape that is wrong.
        """
        from owlkit.models.loading import load_dual_encoder

        return load_dual_encoder(folder_or_id)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes owlkit's model folder; an interrupted call leaves what was there before.

        Args:
            folder: A new folder, or one that holds an owlkit model, which is replaced.

        Raises:
            CheckpointError: If the folder holds something else.
        """
        checkpoint.save_folder(folder, kind="dual_encoder", model=self)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Uploads the model folder to the Hugging Face hub and returns the commit's address.

        Args:
            repo_id: ``owner/name``; created if it does not exist.
            private: Whether a new repository is private.
        """
        return checkpoint.push_folder(self.save_pretrained, repo_id, private=private)
