"""A data set of scenes with a tokenizer, and the quickstart's configurations shrunk to train on it.

A run of a few steps takes less than a second.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owlkit.data.scenes import make_scenes
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.encoders.tokenizer_training import read_captions, train_tokenizer

CONFIGS = Path(__file__).parents[1] / "configs"

VISION = (
    "model.vision.image_size=32",
    "model.vision.overrides={patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2}",
)
TEXT = ("model.text.width=32", "model.text.depth=1", "model.text.heads=2")
TEXT_SIZES = (*TEXT, "model.text.embed_width=32", "model.text.context_length=32")
STEPS = (
    *("train.steps=4", "train.batch_size=8", "train.log_every=1", "train.precision=float32"),
    *("train.eval_every=2", "train.save_every=2", "optim.warmup_steps=1", "data.workers=0"),
)


@dataclass(frozen=True)
class SmallData:
    """Where the data set is, and the words that make a configuration use it."""

    scenes: Path
    tokenizer: Path

    @property
    def annotations(self) -> Path:
        return self.scenes / "annotations"

    def pretraining(self, runs: Path, *words: str) -> list[str]:
        """Configuration file and overrides of a contrastive run."""
        return [
            str(CONFIGS / "quickstart" / "clip.yaml"),
            *(*VISION, *TEXT_SIZES, f"model.text.tokenizer={self.tokenizer}", *STEPS),
            *(f"data.train.captions={self.scenes / 'captions_train.jsonl'}",),
            *(f"data.val_captions.captions={self.scenes / 'captions_val.jsonl'}",),
            *(f"data.{part}.images={self.scenes}" for part in ("train", "val_captions")),
            *(f"runs={runs}", *words),
        ]

    def training(self, runs: Path, *words: str) -> list[str]:
        """Configuration file and overrides of a detector's run; random weights if not told."""
        return [str(CONFIGS / "owl_tiny.yaml"), *self.overrides(runs, *words)]

    def overrides(self, runs: Path, *words: str) -> list[str]:
        """What gives any detector's configuration this data and few steps."""
        return [
            *STEPS,
            *(f"data.train.annotations={self.annotations / 'instances_train.json'}",),
            *(f"data.val.annotations={self.annotations / 'instances_val.json'}",),
            *(f"data.{part}.images={self.scenes}" for part in ("train", "val")),
            *("eval.templates=none", "eval.sample_images=1", "data.queries.templates=none"),
            *(f"eval.split={self.annotations / 'split.json'}", f"runs={runs}", *words),
        ]

    @property
    def random_towers(self) -> tuple[str, ...]:
        """Towers of random weights with this tokenizer."""
        return (*VISION, *TEXT_SIZES, f"model.text.tokenizer={self.tokenizer}")


def make_small_data(folder: Path) -> SmallData:
    """Draws the scenes and trains the tokenizer."""
    data = SmallData(folder / "scenes", folder / "tokenizer")
    make_scenes(data.scenes, train=48, val=6)
    texts = read_captions(data.scenes / "captions_train.jsonl")
    trained = train_tokenizer(texts, vocab_size=400, context_length=32)
    Tokenizer(trained).save_pretrained(data.tokenizer)
    return data


def lines_of(run: Path, kind: str) -> dict[int, dict[str, Any]]:
    """What a run wrote into metrics.jsonl, by step."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines if line["kind"] == kind}
