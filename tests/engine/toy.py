"""A task that learns in milliseconds, and what a trainer needs around it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from owlkit.config import OptimSection, TrainSection
from owlkit.engine import Evaluation, RunOutput, Trainer


@dataclass(frozen=True)
class ToyBatch:
    x: Tensor
    y: Tensor
    sources: tuple[str, ...]
    corrupt: tuple[str, ...] = ()
    tiles: int = 1

    @property
    def images_read(self) -> int:
        return self.tiles * len(self)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: slice) -> "ToyBatch":
        return replace(self, x=self.x[index], y=self.y[index], sources=self.sources[index])

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "ToyBatch":
        return replace(self, x=self.x.to(device), y=self.y.to(device))


class ToyModel(nn.Module):
    """Two towers by name, a block with dropout, and batch statistics."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.vision = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout))
        self.text = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8) if dropout else nn.Identity()
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.norm(self.text(self.vision(x))))
        return output


class ToyTask(nn.Module):
    def __init__(self, *, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = ToyModel(dropout)

    def forward(self, batch: ToyBatch) -> dict[str, Tensor]:
        errors = self.model(batch.x) - batch.y
        square, absolute = errors.square().mean(), errors.abs().mean()
        return {"loss": square + 0.1 * absolute, "square": square, "absolute": absolute}


def toy_batch(step: int, *, size: int = 8) -> ToyBatch:
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(size, 3, generator=generator)
    y = 30 * x.sum(dim=1, keepdim=True)
    return ToyBatch(x, y, tuple(f"image-{step}-{index}" for index in range(size)))


def toy_batches(start: int) -> Iterator[ToyBatch]:
    torch.rand(1)  # as a loader does when it starts
    step = start
    while True:
        yield toy_batch(step)
        step += 1


def save_toy(model: nn.Module, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")


def load_toy(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@dataclass
class ToyLog:
    """Keeps in memory what a run log would write."""

    lines: list[tuple[int, str, dict[str, float]]] = field(default_factory=list)
    rewound_to: int | None = None

    def log(self, step: int, values: Mapping[str, float], kind: str = "train") -> None:
        self.lines.append((step, kind, dict(values)))

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def rewind(self, step: int, *, evaluated: bool = True) -> None:
        self.rewound_to = step

    def of(self, kind: str) -> dict[int, dict[str, float]]:
        return {step: values for step, found, values in self.lines if found == kind}


def make_trainer(
    folder: Path,
    *,
    task: nn.Module | None = None,
    optim: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    batches: Callable[[int], Any] = toy_batches,
    evaluate: Callable[[nn.Module, int], Mapping[str, float]] | None = None,
    accelerator: Accelerator | None = None,
    log: Any = None,
) -> Trainer:
    usual = {"steps": 8, "batch_size": 8, "log_every": 2, "eval_every": 4, "save_every": 4}
    return Trainer(
        task or ToyTask(),
        optim=OptimSection(**{"lr": 0.01, "warmup_steps": 2, **(optim or {})}),
        train=TrainSection(**{**usual, **(train or {})}),
        make_batches=batches,
        output=RunOutput(folder, save_toy, ToyLog() if log is None else log),
        evaluation=None if evaluate is None else Evaluation(evaluate),
        accelerator=accelerator,
    )
