"""A whole training step of the detector, OWL-ViT B/16 at 480 pixels on batches of 4.

Each image asks for COCO's 80 classes. One draw of templates for the batch, as is the default,
makes 80 different texts. Drawn for each example, as published, nearly all of the 320 queries are
different texts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.comparison import Row, compare
from benchmarks.floor import Work
from benchmarks.train_peers import BareTower, TransformersStep
from benchmarks.train_step import BATCH, SIZE, TrainingStep, make_batch, save_detector
from owlkit.encoders.fast_linear import quicken_linears
from owlkit.encoders.quick_gelu import slim_quick_gelus
from owlkit.models import OwlDetector
from owlkit.structures import DetectionBatch

MOST_REPEATS = 3  # of steps that take many seconds
PRECISIONS = {"float32": "", "bfloat16": "-bf16"}
"""And what the name of the path ends with."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}  # of the first loss, relative

_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_UNCOUNTED = {
    _attention: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    _attention_backward: lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4]),
}
"""Attention on CPUs, which torch's counter of operations does not know."""


@dataclass(frozen=True)
class Case:
    """A detector's folder, and what a row says of the step."""

    folder: Path

    @classmethod
    def make(cls, scratch: Path) -> "Case":
        """Writes the folder, unless an earlier path has."""
        folder = scratch / "train_owlvit"
        if not folder.exists():
            save_detector(folder)
        return cls(folder)

    def step(self, batch: DetectionBatch, **settings: Any) -> TrainingStep:
        """owlkit's, with weights as they were saved."""
        AcceleratorState._reset_state()  # a process has one precision
        return TrainingStep(OwlDetector.from_pretrained(self.folder), batch, **settings)

    def peer(self, batch: DetectionBatch, *, precision: str) -> TransformersStep:
        """The transformers', likewise."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return TransformersStep(self.folder, batch, precision=precision, device=device)


def train(repeats: int, scratch: Path) -> Iterator[Row]:
    """Against transformers' OWL-ViT and a loss written plainly, on the same weights and batch.

    Raises:
        RuntimeError: If the two do not begin with the same loss.
    """
    case = Case.make(scratch)
    shared, drawn = make_batch(draws=1), make_batch(draws=BATCH)
    for batch, precision in ((shared, "float32"), (drawn, "float32"), (shared, "bfloat16")):
        step, peer = case.step(batch, precision=precision), case.peer(batch, precision=precision)
        work, ours = count_work(step, precision)  # and warms up
        _check_losses(ours, peer(), tolerance=TOLERANCE[precision])
        yield compare(
            step,
            peer,
            path=f"train{PRECISIONS[precision]}",
            peer="transformers OWL-ViT, queries of each image, DETR's loss",
            settings=_settings(batch, precision),
            repeats=min(repeats, MOST_REPEATS),
            warm_up=False,
            work=work,
        )


def train_tokendrop(repeats: int, scratch: Path) -> Iterator[Row]:
    """With half of the patches dropped against all of them."""
    case, batch = Case.make(scratch), make_batch(draws=1)
    for precision, suffix in PRECISIONS.items():
        yield compare(
            case.step(batch, precision=precision, drop_patches=0.5),
            case.step(batch, precision=precision),
            path=f"train-tokendrop{suffix}",
            peer="owlkit with all patches",
            settings=f"{_settings(batch, precision)}, half of the patches dropped",
            repeats=min(repeats, MOST_REPEATS),
        )


def train_efficiency(repeats: int, scratch: Path) -> Iterator[Row]:
    """Against nothing but the image tower: timm's as it is, and with the layers of the step."""
    case = Case.make(scratch)
    shared, drawn = make_batch(draws=1), make_batch(draws=BATCH)
    for precision, suffix in PRECISIONS.items():
        step = case.step(shared, precision=precision)
        make_tower = partial(BareTower, precision=precision, device=step.accelerator.device)
        tower = OwlDetector.from_pretrained(case.folder).vision
        tower.suit_attention(step.accelerator.device, getattr(torch, precision))
        towers = {"bare timm image tower, forward and backward": make_tower(tower.model)}
        quicken_linears(tower.model)
        slim_quick_gelus(tower.model)
        towers["the same with owlkit's linear layers and activations"] = make_tower(tower.model)
        pairs = [(batch, *peer) for batch in (shared, drawn) for peer in towers.items()]
        for batch, name, bare in pairs:
            step.batch = batch
            yield compare(
                step,
                bare,
                path=f"train-efficiency{suffix}",
                peer=name,
                settings=_settings(batch, precision),
                repeats=min(repeats, MOST_REPEATS),
            )


def count_work(step: TrainingStep, precision: str) -> tuple[Work, float]:
    """Products of one step, and its loss.

    Every weight, its gradient and both moments are read and written at least once.
    """
    with FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
        loss = step()
    weights = sum(weight.nbytes for weight in step.bare.parameters() if weight.requires_grad)
    return Work(counter.get_total_flops() / 1e9, 8 * weights / 2**20, precision), loss


def _settings(batch: DetectionBatch, precision: str) -> str:
    return f"step of B/16, {SIZE} px, batch {BATCH}, {precision}, {len(batch.texts)} texts"


def _check_losses(ours: float, theirs: float, *, tolerance: float) -> None:
    if not abs(ours - theirs) <= tolerance * theirs:
        raise RuntimeError(
            f"expected equal losses, found {ours} (owlkit) and {theirs} (transformers)"
        )
