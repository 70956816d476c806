"""Detectors with random weights, in the folders that transformers writes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn

from benchmarks.inputs import NAMES
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.encoders.tokenizer_training import train_tokenizer

SMALL_TOWER = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4}


def save_owlvit(
    folder: Path,
    names: Sequence[str] = NAMES,
    *,
    text_config: Mapping[str, int] | None = None,
    vision_config: Mapping[str, int] | None = None,
    projection_dim: int = 512,
) -> None:
    """A random OWL-ViT, B/32 at 768 pixels unless told otherwise, with a tokenizer for the labels.

    Args:
        folder: Is written to.
        names: Labels.
        text_config: What differs from the text tower of transformers' default.
        vision_config: What differs from its image tower.
        projection_dim: Width of the embeddings.
    """
    _save("OwlViT", folder, names, text_config or {}, vision_config or {}, projection_dim)


def save_owlv2(folder: Path) -> None:
    """A random OWLv2 B/16 at 960 pixels, with a tokenizer for COCO's names."""
    _save("Owlv2", folder, NAMES, {}, {"image_size": 960}, 512)


def save_small_owlv2(folder: Path) -> None:
    """The same with two narrow layers a tower."""
    small = {**SMALL_TOWER, "num_hidden_layers": 2}
    _save("Owlv2", folder, NAMES, small, {**small, "image_size": 960}, 128)


def _save(
    family: Literal["OwlViT", "Owlv2"],
    folder: Path,
    names: Sequence[str],
    text_config: Mapping[str, int],
    vision_config: Mapping[str, int],
    projection_dim: int,
) -> None:
    captions = [f"a photo of a {name}" for name in names]
    tokenizer = Tokenizer(train_tokenizer(captions, vocab_size=400, context_length=16))
    parts: Any = transformers
    config = getattr(parts, f"{family}Config")(
        text_config={
            "vocab_size": tokenizer.vocab_size,
            "bos_token_id": tokenizer.vocab_size - 2,
            "eos_token_id": tokenizer.vocab_size - 1,
            **text_config,
        },
        vision_config=dict(vision_config),
        projection_dim=projection_dim,
    )
    torch.manual_seed(0)
    model = getattr(parts, f"{family}ForObjectDetection")(config)
    _calm(model)
    model.save_pretrained(folder)
    side = config.vision_config.image_size
    image_processor = getattr(parts, f"{family}ImageProcessor")(
        size={"height": side, "width": side}
    )
    processor = getattr(parts, f"{family}Processor")
    processor(image_processor, tokenizer.transformers_tokenizer).save_pretrained(folder)


@torch.no_grad()
def _calm(model: nn.Module) -> None:
    """Scales the heads so that they keep the size of their input.

    As transformers makes them, every score is 0 or 1 and every box none or all of the image.
    """
    for name, part in model.named_modules():
        if "_head" in name and isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=1 / math.sqrt(part.in_features))
