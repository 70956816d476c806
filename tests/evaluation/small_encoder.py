"""A small random pair of towers, and pictures."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from owlkit.encoders import VisionTower, create_text_tower
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.geometry import Preprocessing
from owlkit.models.dual_encoder import DualEncoder


def make_dual_encoder(
    tokenizer: Path | None, *, seed: int = 0, dropout: float = 0.0
) -> DualEncoder:
    """Inputs of 32 pixels, embeddings of 16; in evaluation mode."""
    torch.manual_seed(seed)
    vision = VisionTower(
        "vit_base_patch16_clip_224",
        image_size=32,
        drop_path=dropout,
        overrides={"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    )
    text = create_text_tower(
        width=32, depth=1, heads=2, vocab_size=300, context_length=16, embed_width=16
    )
    preprocessing = Preprocessing(size=(32, 32), fit="crop", resample="bicubic")
    loaded = None if tokenizer is None else Tokenizer.from_pretrained(tokenizer)
    return DualEncoder(vision, text, preprocessing=preprocessing, tokenizer=loaded).eval()


def make_pictures(folder: Path, count: int = 5, *, seed: int = 0) -> list[Path]:
    """Blobs of colour of different sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        paths.append(folder / f"{number}.png")
        size = 40 + 9 * (number % 7), 60 - 3 * (number % 7)
        Image.fromarray(blobs(seed + number)).resize(size).save(paths[-1])
    return paths


def blobs(seed: int) -> NDArray[np.uint8]:
    """Random colours, uint8 [5, 6, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
