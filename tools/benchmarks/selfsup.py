"""A training step of DINO: owlkit's against the original's, as its recipe says.

The peer is the published step [0] on the same weights: a pass for each crop size, attention by
plain products, torch's weight normalisation, the loss pair by pair, each gradient's norm read by
the host, AdamW as it comes, the teacher weight by weight.

- [0]: Emerging Properties in Self-Supervised Vision Transformers, 2021,
  https://arxiv.org/abs/2104.14294, https://github.com/facebookresearch/dino
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from benchmarks.comparison import Row, compare, summarise
from benchmarks.resident import in_fresh_process, peak_gib
from owlkit.build.runs import suit_attention
from owlkit.config import OptimSection, TrainSection
from owlkit.encoders.vision import VisionTower
from owlkit.engine import CollapseWatch, DistillationTask, create_accelerator
from owlkit.engine.accelerator import prepare_task
from owlkit.engine.clipping import make_clipping
from owlkit.engine.kept_memory import kept_memory
from owlkit.engine.parameter_groups import make_optimizer
from owlkit.geometry import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from owlkit.losses import DinoLoss
from owlkit.models import ImageBackbone
from owlkit.models.distillation import CropEncoder
from owlkit.models.distillation_heads import DistillationHead
from owlkit.structures import CropBatch

NAME = "vit_small_patch16_224"
BATCH, PROTOTYPES = 4, 65536
GLOBAL, LOCAL, LOCALS = 224, 96, 8
DROP_PATH = 0.1
TEACHER_TEMPERATURE, MOMENTUM = 0.04, 0.996
OPTIM = OptimSection(lr=1e-5, weight_decay=0.04, clip="per_parameter", clip_norm=3.0)
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-3}  # of the first loss, relative
MEMORY_STEPS = 3
# Both sides draw the same paths to drop in their first step.
SEED = 1

Parts = tuple[VisionTower, DistillationHead]


class OwlkitStep:
    """One step of owlkit's training loop on one batch, again and again.

    Args:
        student: Learns.
        batch: On the CPU.
        precision: Of activations.
    """

    def __init__(self, student: Parts, batch: CropBatch, *, precision: str) -> None:
        train = TrainSection.model_validate({"precision": precision, "batch_size": len(batch)})
        self.accelerator = create_accelerator(train)
        learner = CropEncoder(*student)
        teacher = CropEncoder(*make_parts(drop_path=0.0))
        for encoder in (learner, teacher):
            suit_attention(encoder.vision, self.accelerator, train)
        self.bare = DistillationTask(
            ImageBackbone(teacher.vision, _preprocessing()),
            learner,
            teacher,
            dino=DinoLoss(PROTOTYPES),
            temperature=lambda step: TEACHER_TEMPERATURE,
            momentum=lambda step: MOMENTUM,
            collapse=CollapseWatch(PROTOTYPES, after=10**9),
        ).train()
        self.task = prepare_task(self.bare, self.accelerator)
        self.optimizer = self.accelerator.prepare_optimizer(make_optimizer(self.bare, OPTIM))
        self.clipping = make_clipping(
            OPTIM, task=self.task, accelerator=self.accelerator, accumulation=1
        )
        self.batch = batch

    def __call__(self) -> float:
        """What the loop does with a batch; returns the loss."""
        batch = self.batch.to(self.accelerator.device, non_blocking=True)
        self.bare.begin_step(0)
        loss: Tensor = self.task(batch)["loss"]
        self.accelerator.backward(loss)
        self.clipping.finish()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.bare.finish_step()
        return loss.item()


class OriginalStep:
    """The same as the original trainer does it.

    Args:
        student: Learns.
        batch: On the CPU.
        precision: Of activations.
    """

    def __init__(self, student: Parts, batch: CropBatch, *, precision: str) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        mean, std = (torch.tensor(values)[:, None, None] * 255 for values in _colours())
        crops = ((part - mean) / std for part in (batch.global_crops, batch.local_crops))
        # Crop 0 of all images, then crop 1.
        self.crops = [part.transpose(0, 1).flatten(0, 1).to(self.device) for part in crops]
        self.student = OriginalModel(*student).to(self.device).train()
        self.teacher = OriginalModel(*make_parts(drop_path=0.0)).to(self.device).train()
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.center = torch.zeros(1, PROTOTYPES, device=self.device)
        self.dtype = getattr(torch, precision)
        learning = [weight for weight in self.student.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [weight for weight in learning if weight.ndim > 1]},
                {"params": [weight for weight in learning if weight.ndim == 1], "weight_decay": 0},
            ],
            lr=OPTIM.lr,
            weight_decay=OPTIM.weight_decay,
        )

    def __call__(self) -> float:
        """What the loop does with a batch; returns the loss."""
        mixed = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=mixed):
            seen = self.teacher(self.crops[:1])
            loss = self._loss(self.student(self.crops), seen)
        self.optimizer.zero_grad()
        loss.backward()
        for weight in self.student.parameters():
            if weight.grad is not None:
                factor = OPTIM.clip_norm / (weight.grad.norm(2).item() + 1e-6)
                if factor < 1:
                    weight.grad.mul_(factor)
        self.optimizer.step()
        with torch.no_grad():
            pairs = zip(self.student.parameters(), self.teacher.parameters(), strict=True)
            for own, followed in pairs:
                followed.mul_(MOMENTUM).add_((1 - MOMENTUM) * own)
        return float(loss.item())

    def _loss(self, said: Tensor, seen: Tensor) -> Tensor:
        """Every pair by itself; then the center moves."""
        views = (said.float() / 0.1).chunk(2 + LOCALS)
        probs = F.softmax((seen.float() - self.center) / TEACHER_TEMPERATURE, dim=-1)
        terms = [
            torch.sum(-own * F.log_softmax(view, dim=-1), dim=-1).mean()
            for teacher, own in enumerate(probs.chunk(2))
            for number, view in enumerate(views)
            if number != teacher
        ]
        self.center = self.center * 0.9 + seen.float().mean(dim=0, keepdim=True) * 0.1
        return torch.stack(terms).mean()


class OriginalModel(nn.Module):
    """Tower and head; the last layer as torch's weight normalisation.

    Args:
        tower: Its timm model is used, with DINO's rule for positions at other sizes.
        head: Its weights are used.
    """

    def __init__(self, tower: VisionTower, head: DistillationHead) -> None:
        super().__init__()
        self.tower = deepcopy(tower)
        for block in self.tower.model.blocks:
            block.attn.fused_attn = False
        self.mlp = deepcopy(head.mlp)
        last = nn.Linear(head.prototypes.weight.shape[1], PROTOTYPES, bias=False)
        last.weight = nn.Parameter(head.prototypes.weight.detach().clone())
        self.last = nn.utils.parametrizations.weight_norm(last)
        gain = self.last.parametrizations.weight.original0
        gain.data.fill_(1)
        gain.requires_grad_(False)

    def forward(self, crops: list[Tensor]) -> Tensor:
        """Logits of all crops; a pass for each size."""
        pooled = torch.cat([self.tower(part).pooled for part in crops])
        logits: Tensor = self.last(F.normalize(self.mlp(pooled), dim=-1))
        return logits


def make_parts(*, drop_path: float = DROP_PATH) -> Parts:
    """Tower and head with random weights, always the same ones."""
    torch.manual_seed(0)
    tower = VisionTower(NAME, image_size=GLOBAL, positions="bicubic_offset", drop_path=drop_path)
    return tower, DistillationHead(tower.pooled_width, PROTOTYPES)


def make_batch() -> CropBatch:
    """Noise; what the crops show makes no difference to the time."""
    generator = torch.Generator().manual_seed(0)

    def noise(crops: int, side: int) -> Tensor:
        shape = (BATCH, crops, 3, side, side)
        return torch.randint(256, shape, dtype=torch.uint8, generator=generator)

    return CropBatch(
        global_crops=noise(2, GLOBAL),
        local_crops=noise(LOCALS, LOCAL),
        sources=tuple(f"picture {number}" for number in range(BATCH)),
    )


def selfsup(repeats: int, scratch: Path) -> Iterator[Row]:
    """ViT-S/16, two crops of 224 and eight of 96 pixels, batch 4, 65,536 prototypes.

    The last row compares the most memory that a process of a few steps ever held.

    Raises:
        RuntimeError: If the two do not begin with the same loss.
    """
    del scratch
    settings = (
        f"step of ViT-S/16, 2x{GLOBAL} + {LOCALS}x{LOCAL}, batch {BATCH}, {PROTOTYPES:,} prototypes"
    )
    for precision, tolerance in TOLERANCE.items():
        AcceleratorState._reset_state()  # a process has one precision
        steps: list[Callable[[], float]] = [
            kind(make_parts(), make_batch(), precision=precision)
            for kind in (OwlkitStep, OriginalStep)
        ]
        losses = [_first_loss(step) for step in steps]  # and warms up
        if abs(losses[0] - losses[1]) > tolerance * losses[1]:
            raise RuntimeError(f"expected equal first losses, found {losses}")
        yield compare(
            *steps,
            path="selfsup",
            peer="the original DINO step",
            settings=f"{settings}, {precision}",
            repeats=repeats,
            warm_up=False,
        )
    yield _memory_row(settings)


def _first_loss(step: Callable[[], float]) -> float:
    torch.manual_seed(SEED)
    return step()


def _memory_row(settings: str) -> Row:
    """Peak memory in GiB in place of seconds; a process each."""
    peaks = [in_fresh_process(_peak_memory, kind) for kind in (OwlkitStep, OriginalStep)]
    return summarise(
        [(peaks[0], peaks[1])],
        path="selfsup-memory",
        peer="the original DINO step",
        settings=f"{settings}, float32; peak memory in GiB in place of seconds",
    )


def _peak_memory(kind: type[OwlkitStep] | type[OriginalStep]) -> float:
    step = kind(make_parts(), make_batch(), precision="float32")
    with kept_memory(step.accelerator.device) if isinstance(step, OwlkitStep) else nullcontext():
        for _ in range(MEMORY_STEPS):
            step()
    return peak_gib()


def _preprocessing() -> Preprocessing:
    mean, std = _colours()
    return Preprocessing(size=(GLOBAL, GLOBAL), fit="crop", resample="bicubic", mean=mean, std=std)


def _colours() -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    return IMAGENET_MEAN, IMAGENET_STD
