"""What an exported graph computes: plain functions of tensors, around a detector's own parts.

Shapes: B images, P patches in h rows of w, n heads, Q queries, L tokens, E embedding width.
"""

import torch
from torch import Tensor, nn

from owlkit.encoders.text import TextTower
from owlkit.models.detector import OwlDetector
from owlkit.models.heads import unit_embeddings

IMAGE_OUTPUTS = ("class_embeds", "boxes", "logit_shift", "logit_scale")
OBJECTNESS = "objectness"
TEXT_OUTPUT = "query_embeds"
ATTENTION_OUTPUT = "attention"


class ImageGraph(nn.Module):
    """Images to all that a detector knows of their patches before it hears the queries.

    Args:
        detector: In evaluation mode.
    """

    def __init__(self, detector: OwlDetector) -> None:
        super().__init__()
        self.detector = detector

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what ``forward`` returns, in order."""
        has_objectness = self.detector.objectness_head is not None
        return (*IMAGE_OUTPUTS, OBJECTNESS) if has_objectness else IMAGE_OUTPUTS

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Encodes preprocessed images [B, 3, H, W].

        Returns:
            Class embeddings, not normalised [B, P, E]; boxes, cxcywh in [0, 1] [B, P, 4]; shift and
            scale of the logits [B, P]; with that head, objectness logits [B, P]. All float32.
        """
        features = self.detector.encode_images(pixels)
        found: tuple[Tensor, ...] = (
            features.class_embeds,
            features.boxes,
            features.logit_shift.squeeze(-1),
            features.logit_scale.squeeze(-1),
        )
        if features.objectness is not None:
            found = (*found, features.objectness)
        return tuple(output.float() for output in found)


class AttentionGraph(nn.Module):
    """Images to where the image tower looks.

    Args:
        detector: In evaluation mode.
    """

    def __init__(self, detector: OwlDetector) -> None:
        super().__init__()
        self.vision = detector.vision

    def forward(self, pixels: Tensor) -> Tensor:
        """Attention of the last block for images [B, 3, H, W], float32 [B, n, h, w].

        Raises:
            TokenError: If the tower is no vision transformer.
        """
        return self.vision.attention_maps(pixels).float()


class TextGraph(nn.Module):
    """Token ids to unit query embeddings, as predictors ask for them.

    Args:
        detector: In evaluation mode.
    """

    def __init__(self, detector: OwlDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encodes ids [Q, L] with their mask [Q, L], both int64; returns unit vectors [Q, E]."""
        return unit_embeddings(self.detector.encode_text(input_ids, attention_mask)).float()


def example_tokens(
    text: TextTower, count: int, length: int, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Random texts as ids: each ends with the end token, every second one before the row does.

    Args:
        text: Says which ids there are, and whether rows must be as long as they can be.
        count: Q.
        length: L, 2 or more; cut to the context length.
        seed: Of the words.

    Returns:
        Ids and attention mask, int64 [Q, L].
    """
    length = min(length, text.context_length)
    vocabulary = int(text.model.config.vocab_size)
    end = vocabulary - 1 if text.eos_token_id is None else text.eos_token_id
    padding = 0 if text.pad_token_id is None else text.pad_token_id
    generator = torch.Generator().manual_seed(seed)
    # Where the vector is taken at the largest id, that is the end token's.
    largest = end if text.pool == "argmax" else vocabulary
    words = [word for word in range(largest) if word not in (padding, end)]
    chosen = torch.randint(len(words), (count, length), generator=generator)
    ids = torch.tensor(words)[chosen]
    ends = torch.full((count,), length - 1)
    ends[1::2] = max(1, length // 2)
    places = torch.arange(length)
    ids = torch.where(places == ends[:, None], end, ids)
    mask = (places <= ends[:, None]).long()
    ids = torch.where(mask.bool(), ids, padding)
    if text.needs_full_length:
        missing = text.context_length - length
        ids = nn.functional.pad(ids, (0, missing), value=padding)
        mask = nn.functional.pad(mask, (0, missing))
    return ids, mask
