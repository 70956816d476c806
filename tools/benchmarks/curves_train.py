"""A step of detector training against image tokens and against boxes."""

from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from benchmarks.curves import MOST_REPEATS, Curve, trace
from benchmarks.curves_detector import MODEL, make_batch, make_detector, patches
from benchmarks.train_step import TrainingStep
from owlkit.losses import DetectionLoss
from owlkit.structures import DetectionBatch

SIZES = (96, 192, 384, 576, 768, 960)
"""Sides of the model's input in pixels."""
BOXES = (1, 3, 10, 30, 100, 300)
"""In one image."""

_SIZE = 384
_IMAGES = 2
_USUAL_BOXES = 7  # COCO's mean


def tokens(repeats: int, scratch: Path) -> Iterator[Curve]:
    """One picture a step, larger and larger."""
    yield trace(
        {
            patches(size): _step(scratch, size, make_batch(size, images=1, boxes=_USUAL_BOXES))
            for size in SIZES
        },
        path="curve-tokens",
        curve="training step against image tokens",
        settings=f"OWL-ViT {MODEL}, batch 1, float32, 80 texts, {_USUAL_BOXES} boxes",
        x_label="patches of an image",
        repeats=min(repeats, MOST_REPEATS),
    )


def boxes(repeats: int, scratch: Path) -> Iterator[Curve]:
    """The whole step, and what of it can depend on boxes: the loss, its matching included."""
    batches = {count: make_batch(_SIZE, images=_IMAGES, boxes=count) for count in BOXES}
    step = _step(scratch, _SIZE, batches[BOXES[0]])

    def run_step(batch: DetectionBatch) -> None:
        step.batch = batch
        step()

    for series, function in (("step", run_step), ("its loss", _run_loss)):
        yield trace(
            {
                count: lambda function=function, batch=batch: function(batch)
                for count, batch in batches.items()
            },
            path="curve-boxes",
            curve="training step against boxes",
            series=series,
            settings=f"OWL-ViT {MODEL}, batch {_IMAGES} of {patches(_SIZE)} patches, float32, "
            f"80 texts, {series}",
            x_label="boxes of an image",
            repeats=min(repeats, MOST_REPEATS),
        )


def _step(scratch: Path, size: int, batch: DetectionBatch) -> TrainingStep:
    AcceleratorState._reset_state()  # a process has one precision, an earlier path's
    return TrainingStep(make_detector(size, scratch), batch, precision="float32")


def _run_loss(batch: DetectionBatch) -> None:
    """Forward and backward, on predictions as of a model that knows nothing."""
    generator = torch.Generator().manual_seed(0)
    shape = (len(batch), patches(_SIZE))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    logits = torch.randn(*shape, batch.queries.shape[1], generator=generator).sub(5).to(device)
    predicted = torch.rand(*shape, 4, generator=generator).to(device)
    losses = DetectionLoss()(
        logits.requires_grad_(), predicted.requires_grad_(), batch.targets.to(device)
    )
    losses.total.backward()
