"""A whole training step of the detector against its image tower alone.

The step is made of what the trainer calls: uint8 images are normalised, the distinct texts and the
images encoded, scored, matched, compared; then come the backward pass, clipping and AdamW. Whether
batches arrive in time is the business of the path ``load``.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from torch import nn

from benchmarks.comparison import Row, compare
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
from owlkit.models import OwlDetector
from owlkit.prompts import fill, resolve_templates
from owlkit.structures import DetectionBatch

SIZE = 480
BATCH = 4
BOXES = 7  # COCO's mean
CLASSES = 3  # with boxes in one image, likewise


class TrainingStep:
    """One step of the training loop on one batch, again and again.

    Args:
        detector: Learns.
        batch: On the CPU.
        precision: Of activations.
        drop_patches: Share of patches that never enter the image tower.
    """

    def __init__(
        self,
        detector: OwlDetector,
        batch: DetectionBatch,
        *,
        precision: str,
        drop_patches: float = 0.0,
    ) -> None:
        train = TrainSection.model_validate({"precision": precision, "batch_size": len(batch)})
        optim = OptimSection(optimizer="adamw", weight_decay=1e-4)
        self.accelerator = create_accelerator(train)
        suit_attention(detector.vision, self.accelerator, train)
        task = DetectionTask(detector, build_loss(LossSection()), drop_patches=drop_patches)
        self.task = prepare_task(task.train(), self.accelerator)
        self.optimizer = self.accelerator.prepare_optimizer(make_optimizer(task, optim))
        self.clipping = make_clipping(
            optim, task=self.task, accelerator=self.accelerator, accumulation=train.accumulation
        )
        self.batch = batch

    def __call__(self) -> None:
        """What the loop does with a batch."""
        batch = self.batch.to(self.accelerator.device, non_blocking=True)
        parts = self.clipping.split(batch)
        for part in parts:
            with self.clipping.communication(last=part is parts[-1]):
                terms = self.task(part)
                self.accelerator.backward(terms["loss"] * (len(part) / len(batch)))
            self.clipping.collect()
        norm = self.clipping.finish()
        if not torch.isfinite(norm):
            raise RuntimeError(f"expected a finite gradient, found the norm {norm}")
        self.optimizer.step()
        self.optimizer.zero_grad()


class BareTower:
    """Forward and backward pass of the timm model that is inside of a detector, and nothing else.

    Args:
        model: Is copied.
        precision: Of activations.
        device: Where it runs.
    """

    def __init__(self, model: nn.Module, *, precision: str, device: torch.device) -> None:
        self.model: Any = copy.deepcopy(model).to(device).train()
        self.pixels = torch.randn(BATCH, 3, SIZE, SIZE, device=device)
        self.dtype = getattr(torch, precision)

    def __call__(self) -> None:
        """The loss is the mean of all tokens."""
        mixed = self.dtype != torch.float32
        with torch.autocast(self.pixels.device.type, dtype=self.dtype, enabled=mixed):
            loss = self.model.forward_features(self.pixels).mean()
        loss.backward()
        self.model.zero_grad()


def train(repeats: int, scratch: Path) -> Iterator[Row]:
    """OWL-ViT B/16 at 480 pixels on batches of 4, with COCO's 80 classes as queries of each image.

    One draw of templates for the batch, as is the default, makes 80 texts. Drawn for each example,
    as published, nearly all of its 320 queries are different texts; that is a row of its own.
    """
    folder = scratch / "tokenizer"
    _make_tokenizer().save_pretrained(folder)
    shared, drawn = _make_batch(draws=1), _make_batch(draws=BATCH)
    for precision in ("float32", "bfloat16"):
        AcceleratorState._reset_state()  # a process has one precision
        detector = _make_detector(folder)
        step = TrainingStep(detector, shared, precision=precision)
        bare = BareTower(detector.vision.model, precision=precision, device=step.accelerator.device)
        settings = f"step of B/16, {SIZE} px, batch {BATCH}, {precision}"
        for batch in (shared, drawn):
            step.batch = batch
            yield compare(
                step,
                bare,
                path="train",
                peer="bare timm image tower, forward and backward",
                settings=f"{settings}, {len(batch.texts)} texts",
                repeats=repeats,
            )
        step.batch = shared
        yield compare(
            TrainingStep(detector, shared, precision=precision, drop_patches=0.5),
            step,
            path="train",
            peer="owlkit with all patches",
            settings=f"{settings}, {len(shared.texts)} texts, half of the patches dropped",
            repeats=repeats,
        )


def _make_detector(tokenizer: Path) -> OwlDetector:
    return build_detector(
        ModelSection(
            vision=VisionSection(image_size=SIZE), text=TextSection(tokenizer=str(tokenizer))
        )
    )


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


def _make_tokenizer() -> Tokenizer:
    """As many tokens as CLIP's, and for the prompts as few of them as CLIP's needs."""
    prompts = [text for draw in _prompts(100) for text in draw]
    letters = np.random.default_rng(0).integers(ord("a"), ord("z") + 1, (40_000, 6), dtype=np.uint8)
    words = [row.tobytes().decode() for row in letters]
    trained = train_tokenizer(
        [*prompts, *words], vocab_size=CLIP_VOCAB_SIZE, context_length=OWL_CONTEXT_LENGTH
    )
    return Tokenizer(trained)


def _make_batch(*, draws: int) -> DetectionBatch:
    """Pictures that ask for all classes, in words that are drawn so many times."""
    generator = np.random.default_rng(0)
    prompts = _prompts(draws)
    return collate(
        [_make_example(prompts[index % draws], generator, seed=index) for index in range(BATCH)]
    )


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
