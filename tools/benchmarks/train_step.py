"""A step of detector training: what the trainer does with a batch that has arrived.

uint8 images are normalised, the distinct texts and the images encoded, scored, matched, compared;
then come the backward pass, clipping and AdamW. Whether batches arrive in time is the business of
the path ``loader``.
"""

from pathlib import Path

import numpy as np
import torch

from benchmarks.inputs import NAMES, make_photo
from owlkit.build.detection import build_loss
from owlkit.build.detector import build_detector
from owlkit.build.runs import suit_attention
from owlkit.config import (
    LossSection,
    ModelSection,
    OptimSection,
    TextSection,
    TrainSection,
    VisionSection,
)
from owlkit.data.batch import collate
from owlkit.data.examples import Example
from owlkit.encoders.text import CLIP_VOCAB_SIZE, OWL_CONTEXT_LENGTH
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.encoders.tokenizer_training import train_tokenizer
from owlkit.engine import DetectionTask, create_accelerator
from owlkit.engine.accelerator import prepare_task
from owlkit.engine.clipping import make_clipping
from owlkit.engine.parameter_groups import make_optimizer
from owlkit.geometry import owlvit_preprocessing
from owlkit.models import OwlDetector
from owlkit.prompts import fill, resolve_templates
from owlkit.structures import DetectionBatch

SIZE = 480
BATCH = 4
BOXES = 7  # COCO's mean
CLASSES = 3  # with boxes in one image, likewise
VISION = VisionSection(image_size=SIZE)
TEXT = TextSection()
OPTIM = OptimSection(lr=1e-5, weight_decay=1e-4)
LOSS = LossSection()


class TrainingStep:
    """One step of owlkit's training loop on one batch, again and again.

    Args:
        detector: Learns.
        batch: On the CPU.
        precision: Of activations.
        drop_patches: Share of patches that never enter the image tower.
        accumulation: Parts of the batch that pass one after another.
    """

    def __init__(
        self,
        detector: OwlDetector,
        batch: DetectionBatch,
        *,
        precision: str,
        drop_patches: float = 0.0,
        accumulation: int = 1,
    ) -> None:
        settings = {
            "precision": precision,
            "batch_size": len(batch),
            "accumulation": accumulation,
        }
        train = TrainSection.model_validate(settings)
        self.accelerator = create_accelerator(train)
        suit_attention(detector.vision, self.accelerator, train)
        self.bare = DetectionTask(detector, build_loss(LOSS), drop_patches=drop_patches).train()
        self.task = prepare_task(self.bare, self.accelerator)
        self.optimizer = self.accelerator.prepare_optimizer(make_optimizer(self.bare, OPTIM))
        self.clipping = make_clipping(
            OPTIM, task=self.task, accelerator=self.accelerator, accumulation=accumulation
        )
        self.batch = batch

    def __call__(self) -> float:
        """What the loop does with a batch; returns the loss.

        Raises:
            RuntimeError: If the gradient is not finite, which the loop looks at, too.
        """
        batch = self.bare.prepare(self.batch.to(self.accelerator.device, non_blocking=True))
        parts = self.clipping.split(batch)
        losses = []
        for part in parts:
            with self.clipping.communication(last=part is parts[-1]):
                loss = self.task(part)["loss"] * (len(part) / len(batch))
                self.accelerator.backward(loss)
            self.clipping.collect()
            losses.append(loss.detach())
        norm = self.clipping.finish()
        if not torch.isfinite(norm):
            raise RuntimeError(f"expected a finite gradient, found the norm {norm}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        return torch.stack(losses).sum().item()


def save_detector(folder: Path) -> None:
    """Writes a random OWL-ViT B/16 as transformers' folder, tokenizer included."""
    tokenizer = folder.with_name(f"{folder.name}_tokenizer")
    _make_tokenizer().save_pretrained(tokenizer)
    text = TEXT.model_copy(update={"tokenizer": str(tokenizer)})
    detector = build_detector(ModelSection(vision=VISION, text=text, convention="hf"))
    detector.preprocessing = owlvit_preprocessing(SIZE, "hf")
    detector.save_huggingface(folder)


def make_batch(*, draws: int) -> DetectionBatch:
    """Pictures that ask for all 80 classes, in words that are drawn so many times."""
    generator = np.random.default_rng(0)
    prompts = _prompts(draws)
    return collate(
        [_make_example(prompts[index % draws], generator, seed=index) for index in range(BATCH)]
    )


def _make_tokenizer() -> Tokenizer:
    """As many tokens as CLIP's, and for the prompts as few of them as CLIP's needs."""
    prompts = [text for draw in _prompts(100) for text in draw]
    letters = np.random.default_rng(0).integers(ord("a"), ord("z") + 1, (40_000, 6), dtype=np.uint8)
    words = [row.tobytes().decode() for row in letters]
    vocab_size = TEXT.vocab_size or CLIP_VOCAB_SIZE
    trained = train_tokenizer(
        [*prompts, *words], vocab_size=vocab_size, context_length=OWL_CONTEXT_LENGTH
    )
    return Tokenizer(trained)


def _prompts(draws: int) -> list[tuple[str, ...]]:
    """For each draw, all names in a random template each."""
    generator = np.random.default_rng(0)
    templates = resolve_templates("ensemble81")
    return [
        tuple(
            fill(templates[number], name, canonical=True)
            for number, name in zip(
                generator.integers(len(templates), size=len(NAMES)), NAMES, strict=True
            )
        )
        for _ in range(draws)
    ]


def _make_example(texts: tuple[str, ...], generator: np.random.Generator, *, seed: int) -> Example:
    texts = tuple(dict.fromkeys(texts))
    corners = np.sort(generator.random((BOXES, 2, 2)), axis=1)
    classes = generator.choice(len(texts), CLASSES, replace=False)
    found = generator.choice(classes, BOXES)
    return Example(
        image=np.array(make_photo(SIZE, SIZE, seed=seed)),
        texts=texts,
        labels=found[:, None] == np.arange(len(texts)),
        boxes=corners.reshape(BOXES, 4).astype(np.float32),
        source=f"picture {seed}",
        images_read=1,
    )
