"""How much memory a step of detector training needs, by setting."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.clock import seconds
from benchmarks.resident import in_fresh_process, peak_gib
from benchmarks.table import line
from benchmarks.train import Case
from benchmarks.train_step import SIZE, TrainingStep, make_batch
from owlkit.engine.kept_memory import kept_memory
from owlkit.models import OwlDetector


@dataclass(frozen=True)
class Setting:
    """What differs from a plain step in float32 on a batch of 4.

    Attributes:
        name: Goes into the row.
        batch: Images.
        checkpointing: Recompute the image tower's blocks in the backward pass.
        step: Arguments of :class:`~benchmarks.train_step.TrainingStep`.
    """

    name: str
    batch: int = 4
    checkpointing: bool = False
    step: dict[str, Any] = field(default_factory=dict)


PLAIN = Setting("batch 4")
SETTINGS = (
    Setting("batch 1", batch=1),
    Setting("batch 2", batch=2),
    Setting("batch 4, in 4 parts", step={"accumulation": 4}),
    Setting("batch 4, gradient checkpointing", checkpointing=True),
    Setting("batch 4, half of the patches dropped", step={"drop_patches": 0.5}),
    Setting("batch 4, both", checkpointing=True, step={"drop_patches": 0.5}),
    Setting("batch 4, bfloat16", step={"precision": "bfloat16"}),
)
TRANSFORMERS = "batch 4, transformers OWL-ViT with DETR's loss"


@dataclass(frozen=True)
class TrainMemoryRow:
    """A setting beside the plain step.

    Attributes:
        path: Name of the comparison.
        settings: The setting.
        peer: The plain step.
        ratio: ``peer_peak_gib / peak_gib``.
        peak_gib: Most memory that the process ever held: libraries, weights, moments, activations.
        peer_peak_gib: The same of the plain step.
        step_s: Seconds of the second step.
    """

    path: str
    settings: str
    peer: str
    ratio: float
    peak_gib: float
    peer_peak_gib: float
    step_s: float


def train_memory(repeats: int, scratch: Path) -> Iterator[TrainMemoryRow]:
    """Two steps of OWL-ViT B/16 at 480 pixels, 80 texts, in a fresh process for each setting.

    What the libraries alone take is in every figure. The second step is the first that has the
    optimiser's moments beside the activations.
    """
    del repeats
    case = Case.make(scratch)
    plain, elapsed = in_fresh_process(_measure, case, PLAIN)
    yield _row(PLAIN.name, plain, plain, elapsed)
    for setting in SETTINGS:
        yield _row(setting.name, plain, *in_fresh_process(_measure, case, setting))
    yield _row(TRANSFORMERS, plain, *in_fresh_process(_measure_peer, case))


def _measure(case: Case, setting: Setting) -> tuple[float, float]:
    """Peak in GiB, and seconds of the second step."""
    detector = OwlDetector.from_pretrained(case.folder)
    detector.vision.gradient_checkpointing = setting.checkpointing
    batch = make_batch(draws=1)[: setting.batch]
    step = TrainingStep(detector, batch, **{"precision": "float32", **setting.step})
    with kept_memory(step.accelerator.device):
        step()
        elapsed = seconds(step)
    return peak_gib(), elapsed


def _measure_peer(case: Case) -> tuple[float, float]:
    step = case.peer(make_batch(draws=1), precision="float32")
    step()
    elapsed = seconds(step)
    return peak_gib(), elapsed


def _row(name: str, plain_gib: float, gib: float, elapsed: float) -> TrainMemoryRow:
    row = TrainMemoryRow(
        path="train-memory",
        settings=f"step of B/16, {SIZE} px, {name}",
        peer=PLAIN.name,
        ratio=plain_gib / gib,
        peak_gib=gib,
        peer_peak_gib=plain_gib,
        step_s=elapsed,
    )
    print(line(asdict(row)), flush=True)
    return row
