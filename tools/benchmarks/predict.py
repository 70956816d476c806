"""Detection with a model that is ready, and what happens to a picture before it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import owlkit
from benchmarks.comparison import Row, compare
from benchmarks.inputs import NAMES, make_photo
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.encoders.tokenizer_training import train_tokenizer
from owlkit.geometry import owlv2_preprocessing


def predict(repeats: int, scratch: Path) -> Iterator[Row]:
    """OWL-ViT B/32 at 768 pixels with 80 labels, random weights."""
    folder, photo = scratch / "owlvit", scratch / "photo.jpg"
    save_owlvit(folder, NAMES)
    make_photo(640, 480).save(photo)
    predictor = owlkit.Predictor.from_pretrained(folder)
    backend: Any = predictor.backend
    settings = "OWL-ViT B/32, 768 px, 80 labels, float32"

    queries = owlkit.QuerySet.from_text(NAMES)
    pixels = torch.randn(1, 3, 768, 768, device=backend.device)
    tower = backend.detector.vision

    def detect() -> None:
        predictor.detect(str(photo), queries, threshold=0.3)

    @torch.inference_mode()
    def bare_tower() -> None:
        tower.model(pixels)

    yield compare(
        detect,
        bare_tower,
        path="predict",
        peer="bare timm image tower",
        settings=f"{settings}, queries ready",
        repeats=repeats,
    )
    half = owlkit.Predictor.from_pretrained(folder, precision="bfloat16")
    yield compare(
        lambda: half.detect(str(photo), queries, threshold=0.3),
        detect,
        path="predict",
        peer="owlkit in float32",
        settings="OWL-ViT B/32, 768 px, 80 labels ready, bfloat16",
        repeats=repeats,
    )

    # Last, because minutes of full load slow some processors down for what comes after.
    pipe = transformers.pipeline(
        "zero-shot-object-detection", model=str(folder), device=backend.device
    )

    def detect_from_scratch() -> None:
        # A new predictor knows no texts yet, so this pays for the text tower as the peer does.
        owlkit.Predictor(backend).detect(str(photo), NAMES, threshold=0.3)

    detect_from_scratch()
    pipe(str(photo), candidate_labels=NAMES[:2], threshold=0.3)
    yield compare(
        detect_from_scratch,
        lambda: pipe(str(photo), candidate_labels=NAMES, threshold=0.3),
        path="predict",
        peer="transformers pipeline zero-shot-object-detection",
        settings=settings,
        repeats=min(repeats, 3),
        warm_up=False,
    )


def preprocess(repeats: int, scratch: Path) -> Iterator[Row]:
    """OWLv2's preprocessing of a 12-megapixel photograph to 960 pixels."""
    del scratch
    photo = np.array(make_photo(4000, 3000))
    ours = owlv2_preprocessing(960)
    peers = {
        "transformers Owlv2ImageProcessor": transformers.Owlv2ImageProcessor(),
        "transformers Owlv2ImageProcessorPil": transformers.Owlv2ImageProcessorPil(),
    }
    for name, processor in peers.items():
        yield compare(
            lambda: ours(photo),
            lambda processor=processor: processor(photo, return_tensors="pt"),
            path="preprocess",
            peer=name,
            settings="4000x3000 to 960x960, padded",
            repeats=repeats,
        )


def save_owlvit(
    folder: Path,
    names: Sequence[str],
    *,
    text_config: Mapping[str, int] | None = None,
    vision_config: Mapping[str, int] | None = None,
    projection_dim: int = 512,
) -> None:
    """A random OWL-ViT, B/32 unless told otherwise, with a tokenizer for the labels.

    Saved by transformers.
    """
    captions = [f"a photo of a {name}" for name in names]
    tokenizer = Tokenizer(train_tokenizer(captions, vocab_size=400, context_length=16))
    config = transformers.OwlViTConfig(
        text_config={
            "vocab_size": tokenizer.vocab_size,
            "bos_token_id": tokenizer.vocab_size - 2,
            "eos_token_id": tokenizer.vocab_size - 1,
            **(text_config or {}),
        },
        vision_config=vision_config,
        projection_dim=projection_dim,
    )
    side = config.vision_config.image_size
    model = transformers.OwlViTForObjectDetection(config)
    model.save_pretrained(folder)
    transformers.OwlViTProcessor(
        transformers.OwlViTImageProcessor(size={"height": side, "width": side}),
        tokenizer.transformers_tokenizer,
    ).save_pretrained(folder)
