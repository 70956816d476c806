"""Tasks that learn in milliseconds, and what a trainer needs around them."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from owlkit.config import OptimSection, TrainSection
from owlkit.encoders import VisionTower
from owlkit.encoders.text import create_text_tower
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.engine import Evaluation, RunOutput, Trainer
from owlkit.geometry import owlvit_preprocessing
from owlkit.models import DualEncoder
from owlkit.structures import PairBatch


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


def make_dual_encoder(
    tokenizer_folder: Path | str,
    *,
    vision: str = "vit_base_patch16_clip_quickgelu_224",
    dropout: float = 0.0,
    logit_bias: bool = False,
    mask_token: bool = False,
) -> DualEncoder:
    """Towers of two blocks, 32 wide, for images of 32 x 32; always the same weights.

    Dropout acts on whole blocks of images and on the attention between words.
    """
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
    overrides = sizes if vision.startswith("vit") else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = VisionTower(
            vision, image_size=32, drop_path=dropout, mask_token=mask_token, overrides=overrides
        )
        text = create_text_tower(
            vocab_size=300, context_length=16, width=32, depth=2, heads=2, embed_width=16
        )
        for layer in text.model.modules():
            if hasattr(layer, "attention_dropout"):
                layer.attention_dropout = dropout
        return DualEncoder(
            tower,
            text,
            preprocessing=owlvit_preprocessing((32, 32), "scenic"),
            logit_bias=logit_bias,
            tokenizer=Tokenizer.from_pretrained(tokenizer_folder),
        ).train()


def pair_batch(size: int, *, step: int = 0, views: bool = False) -> PairBatch:
    """Noise with captions, every fifth of which repeats the one before."""
    generator = torch.Generator().manual_seed(1000 + step)

    def noise(*shape: int) -> Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    names = [index - (index % 5 == 4) for index in range(size)]
    return PairBatch(
        images=noise(size, 3, 32, 32),
        texts=tuple(f"a photo of {name} owls" for name in names),
        identities=torch.tensor(names),
        sources=tuple(f"pair-{step}-{index}" for index in range(size)),
        views=noise(size, 2, 3, 32, 32) if views else None,
    )


def run_two_processes(program: str, *arguments: str) -> None:
    """Runs a program twice, as the two ranks of a distributed run on the CPU."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 0, error
