"""What a run is given, what it knows about itself, and what it says in the end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from owlkit.engine.run_log import RunLog

Ending = Literal["finished", "stopped_early", "interrupted"]


@dataclass(frozen=True)
class RunOutput:
    """Where a run leaves what it makes.

    Attributes:
        folder: Holds ``last/`` and ``best/``, two model folders; ``last/training/`` is what
            resuming needs.
        save_model: Writes a model into a folder, complete or not at all, for example
            ``OwlDetector.save_pretrained``.
        log: Takes the metrics; disabled on all processes but the first.
        config_text: Goes into ``config.yaml``; None writes none.
    """

    folder: Path
    save_model: Callable[[Any, Path], None]
    log: RunLog
    config_text: str | None = None

    def write_config(self, *, step: int = 0) -> None:
        """Writes ``config.yaml``; a different one of a run that resumes is kept beside it.

        Args:
            step: Where the run resumes: ``config_before_step_<step>.yaml`` is what was used before.
        """
        if self.config_text is None:
            return
        path = self.folder / "config.yaml"
        if step and path.is_file() and path.read_text(encoding="utf-8") != self.config_text:
            path.replace(self.folder / f"config_before_step_{step}.yaml")
        path.write_text(self.config_text, encoding="utf-8")


@dataclass(frozen=True)
class Evaluation:
    """How a model is measured while it learns.

    Attributes:
        measure: Takes the model, in evaluation mode, and the number of steps taken; returns
            metrics. Every process calls it; what the first one returns counts.
        best_metric: The metric, the larger the better, by which ``best/`` is chosen.
    """

    measure: Callable[[Any, int], Mapping[str, float]]
    best_metric: str = "AP"


@dataclass
class RunState:
    """How far a run is; what of it a resumed run takes over besides tensors.

    Attributes:
        step: Optimiser steps taken.
        examples: Examples seen, over all processes.
        images_read: Image files opened, which is more than examples where these are mosaics.
        corrupt: Those of them that could not be read.
        seconds: Time spent.
        evaluated: Step of the last evaluation.
        metrics: What the last evaluation found.
        best: Best value of the best metric; None before the first evaluation.
        best_step: When it was found.
        evaluations_since_best: Evaluations that found nothing better.
    """

    step: int = 0
    examples: int = 0
    images_read: int = 0
    corrupt: int = 0
    seconds: float = 0.0
    evaluated: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    best_step: int | None = None
    evaluations_since_best: int = 0


@dataclass(frozen=True)
class TrainingSummary:
    """How a run ended.

    Attributes:
        ending: ``finished`` all steps, ``stopped_early`` for want of progress, or ``interrupted``
            and waiting to be resumed.
        state: How far it came.
        signal: Name of the signal that this process was asked to stop by, ``SIGINT`` or
            ``SIGTERM``; None if none came, or it came to another process.
    """

    ending: Ending
    state: RunState
    signal: str | None = None
