"""A shallow detector of any image size, for curves whose shape does not depend on its depth."""

from pathlib import Path

import numpy as np

from benchmarks.inputs import NAMES, make_photo
from owlkit.build.detector import build_detector
from owlkit.config import ModelSection, TextSection, VisionSection
from owlkit.data.batch import collate
from owlkit.data.examples import Example
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.encoders.tokenizer_training import train_tokenizer
from owlkit.models import OwlDetector
from owlkit.structures import DetectionBatch

MODEL = "B/16 with 2 of 12 layers"
PATCH = 16

CHANGES = {"depth": 2}
"""What differs from timm's B/16."""

_TEXT_DEPTH = 2
_VOCABULARY = 400


def make_detector(image_size: int, scratch: Path) -> OwlDetector:
    """OWL-ViT B/16 with random weights, its widths as they are and two layers a tower.

    Args:
        image_size: Side of the input in pixels.
        scratch: Folder in which the tokenizer is kept.
    """
    tokenizer = scratch / "curves_tokenizer"
    if not tokenizer.exists():
        trained = train_tokenizer(NAMES, vocab_size=_VOCABULARY, context_length=16)
        Tokenizer(trained).save_pretrained(tokenizer)
    vision = VisionSection(image_size=image_size, overrides=dict(CHANGES))
    text = TextSection(depth=_TEXT_DEPTH, tokenizer=str(tokenizer))
    return build_detector(ModelSection(vision=vision, text=text, convention="hf"))


def make_batch(image_size: int, *, images: int, boxes: int) -> DetectionBatch:
    """Pictures with so many boxes each, which are asked for COCO's classes."""
    generator = np.random.default_rng(0)
    return collate([_make_example(image_size, boxes, generator) for _ in range(images)])


def _make_example(image_size: int, boxes: int, generator: np.random.Generator) -> Example:
    corners = np.sort(generator.random((boxes, 2, 2)), axis=1)
    classes = generator.integers(len(NAMES), size=boxes)
    return Example(
        image=np.array(make_photo(image_size, image_size)),
        texts=NAMES,
        labels=classes[:, None] == np.arange(len(NAMES)),
        boxes=corners.reshape(boxes, 4).astype(np.float32),
        source="",
        images_read=1,
    )


def patches(image_size: int) -> int:
    """How many patches an image has, one predicted box each."""
    return (image_size // PATCH) ** 2
