"""``owlkit train``, ``pretrain`` and ``pretrain-dino``: run a training from its configuration."""

import argparse
import logging
import os
import signal
from typing import TYPE_CHECKING

from owlkit.cli.configured import add_config_arguments, read_run

if TYPE_CHECKING:
    from owlkit.config import RunConfig
    from owlkit.engine import Trainer, TrainingSummary

TRAIN_SUMMARY = "train a detector on boxes"
PRETRAIN_SUMMARY = "pretrain image and text encoders on captions"
PRETRAIN_DINO_SUMMARY = "pretrain an image encoder on images alone (DINO, DINOv2, MAE, BYOL)"

# Shells report a command that a signal ended as this and the number of the signal.
_SIGNALLED = 128

add_arguments = add_config_arguments


def run_train(options: argparse.Namespace) -> int:
    """Trains a detector; returns 0, or 130 after Ctrl-C and 143 after SIGTERM."""
    from owlkit.config import DetectorConfig

    config = read_run(options, DetectorConfig)
    if config is None:
        return 0
    _log_to_stderr()
    from owlkit.build import build_detector_training

    return _fit(build_detector_training(config), config)


def run_pretrain(options: argparse.Namespace) -> int:
    """Trains image and text encoders; returns 0, or 130 after Ctrl-C and 143 after SIGTERM."""
    from owlkit.config import ContrastiveConfig

    config = read_run(options, ContrastiveConfig)
    if config is None:
        return 0
    _log_to_stderr()
    from owlkit.build import build_contrastive_training

    return _fit(build_contrastive_training(config), config)


def run_pretrain_dino(options: argparse.Namespace) -> int:
    """Trains an image encoder by itself; returns 0, or 130 after Ctrl-C and 143 after SIGTERM."""
    from owlkit.config import SelfSupervisedConfig

    config = read_run(options, SelfSupervisedConfig)
    if config is None:
        return 0
    _log_to_stderr()
    from owlkit.build import build_self_supervised_training

    return _fit(build_self_supervised_training(config), config)


def _fit(trainer: "Trainer", config: "RunConfig") -> int:
    with trainer.output.log:
        summary = trainer.fit(resume=config.resume)
    if trainer.accelerator.is_main_process:
        print(_words(summary, trainer))
    if summary.ending != "interrupted":
        return 0
    # A process that was not asked itself stops with the one that was.
    return _SIGNALLED + signal.Signals[summary.signal or "SIGTERM"]


def _words(summary: "TrainingSummary", trainer: "Trainer") -> str:
    """How the run ended, and last the folder of its model."""
    state, folder = summary.state, trainer.output.folder
    lines = [f"{summary.ending.replace('_', ' ')} after step {state.step}"]
    if state.best is not None:
        lines.append(f"best {state.best:.4f} at step {state.best_step}")
    if summary.ending == "interrupted":
        lines.append("go on with resume=true")
    # Without an evaluation, the best model is the one at the end.
    result = folder / "best"
    return f"{', '.join(lines)}\n{result if result.is_dir() else folder / 'last'}"


def _log_to_stderr() -> None:
    """Shows what the library has to say; importing owlkit alone never does."""
    from rich.console import Console
    from rich.logging import RichHandler

    logger = logging.getLogger("owlkit")
    # Of several processes, started by torchrun or accelerate, the first one speaks.
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    if logger.handlers:
        return
    console = Console(stderr=True)
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_level=False)
    logger.addHandler(handler)
