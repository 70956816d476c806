"""What all trainings share: the folder of the run, its log, and the size of its images."""

from pathlib import Path
from typing import Any

import torch

from owlkit.build.paths import expanded
from owlkit.config import RunConfig, TrainSection, dump_config
from owlkit.data.loader import BatchPlan
from owlkit.encoders.vision import VisionTower
from owlkit.engine import Accelerator, RunLog, RunOutput
from owlkit.engine.checkpoint import has_checkpoint
from owlkit.errors import ConfigError
from owlkit.geometry import Preprocessing


def run_folder(config: RunConfig) -> Path:
    """Where a run leaves its results.

    Raises:
        ConfigError: If the run has no name, exists although it is to begin, or does not although it
            is to go on.
    """
    if config.name is None:
        raise ConfigError("name: expected a name for the run, found nothing")
    folder = expanded(config.runs, key="runs", expected="a folder") / config.name
    can_go_on = has_checkpoint(folder / "last")
    if config.resume and not can_go_on:
        raise ConfigError(
            f"resume: expected a checkpoint in {folder / 'last'}, found none: "
            "nothing was saved there; leave out resume=true to begin anew"
        )
    if not config.resume and (can_go_on or (folder / "best").is_dir()):
        # Without a checkpoint, it was killed after its first evaluation.
        advice = "go on with resume=true, or choose" if can_go_on else "choose"
        raise ConfigError(f"{folder}: there is such a run; {advice} another name=...")
    return folder


def run_output(config: RunConfig, folder: Path, accelerator: Accelerator) -> RunOutput:
    """Folder, log and way of saving of a run; only the first process writes."""
    log = RunLog(
        folder,
        total_steps=config.train.steps,
        tensorboard=config.train.tensorboard,
        enabled=accelerator.is_main_process,
    )
    # What makes this run again begins it; that this one was resumed is no part of that.
    text = dump_config(config.model_copy(update={"resume": False}))
    return RunOutput(folder=folder, save_model=_save, log=log, config_text=text)


def batch_plan(train: TrainSection, accelerator: Accelerator, start_step: int) -> BatchPlan:
    """Which examples this process gets, from a step on."""
    return BatchPlan(
        batch_size=train.batch_size,
        total_steps=train.steps,
        start_step=start_step,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )


def input_side(preprocessing: Preprocessing) -> int:
    """Side in pixels of the images that a model with this preprocessing is trained on.

    Raises:
        ConfigError: If its input is not square.
    """
    height, width = preprocessing.size
    if height != width:
        raise ConfigError(
            f"model.vision.image_size: expected a square input for training, found {height}x{width}"
            " with the weights; set the side"
        )
    return height


def suit_attention(tower: VisionTower, accelerator: Accelerator, train: TrainSection) -> None:
    """Lets an image tower compute attention in the way that is faster for this training."""
    tower.suit_attention(accelerator.device, getattr(torch, train.precision))


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
