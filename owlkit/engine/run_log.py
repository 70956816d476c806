"""What a run writes down about itself: metrics.jsonl, TensorBoard events, progress, curves."""

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from owlkit.engine.curves import draw_curves, read_metrics
from owlkit.errors import TrainingError

_LOGGER = logging.getLogger(__name__)
_OWN_KEYS = frozenset({"step", "kind", "time"})
_SECONDS_BETWEEN_LINES = 30.0
# Speed is averaged over so long, so that single slow steps do not shake the estimate.
_SPEED_PERIOD = 300.0


class RunLog:
    """Records a run in its folder and shows how far it is.

    Writes ``metrics.jsonl``, one JSON object a line with ``step``, ``kind``, ``time`` (seconds
    since 1970) and the values; if asked, TensorBoard events in ``tensorboard/``; after each
    evaluation and at the end, curves in ``plots/``. Every line is on disk when :meth:`log` returns.

    Args:
        folder: The run's folder, made if needed.
        total_steps: Optimiser steps of the whole run.
        tensorboard: Write TensorBoard events, too.
        progress: Show a progress bar on stderr; None does so if that is a terminal. Without it, a
            line goes to the log every half minute.
        enabled: False does nothing at all, for all processes but the first.
    """

    def __init__(
        self,
        folder: Path,
        *,
        total_steps: int,
        tensorboard: bool = False,
        progress: bool | None = None,
        enabled: bool = True,
    ) -> None:
        self.folder = folder
        self.metrics_file = folder / "metrics.jsonl"
        self._total_steps = total_steps
        self._tensorboard = tensorboard
        self._enabled = enabled
        self._writer: Any = None
        self._resumed_at: int | None = None
        console = Console(stderr=True, force_terminal=progress or None)
        self._shown = enabled and (console.is_terminal if progress is None else progress)
        self._bar = _make_bar(console, shown=self._shown)
        self._task: TaskID | None = None
        self._last_line = time.monotonic()
        if enabled:
            folder.mkdir(parents=True, exist_ok=True)

    def log(
        self, step: int, values: Mapping[str, float], kind: Literal["train", "eval"] = "train"
    ) -> None:
        """Appends a line of values; after an evaluation, draws the curves anew.

        Args:
            step: Optimiser steps taken so far.
            values: Numbers by name; what is not finite is written as null.
            kind: ``train`` for losses, rates and speed, ``eval`` for what was measured.

        Raises:
            TrainingError: If a value has the name of one of the line's own keys.
        """
        if not self._enabled:
            return
        taken = _OWN_KEYS & values.keys()
        if taken:
            raise TrainingError(
                f"metrics of step {step}: names that the log needs itself: {sorted(taken)}"
            )
        numbers = {name: _json_number(value) for name, value in values.items()}
        entry = {"step": step, "kind": kind, "time": round(time.time(), 3), **numbers}
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
        if self._tensorboard:
            self._log_to_tensorboard(step, values, kind)
        if kind == "eval":
            self._draw_curves()

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Moves the bar, or now and then logs a line instead.

        Args:
            step: Optimiser steps taken so far.
            values: What to show beside it; ``images_per_second`` appears as images/s.
        """
        if not self._enabled:
            return
        text = "  ".join(f"{_short(name)} {float(value):.4g}" for name, value in values.items())
        if self._task is None:
            self._bar.start()
            # A resumed run starts here; a jump would be taken for speed.
            self._task = self._bar.add_task(
                "train", total=self._total_steps, completed=step, values=""
            )
        self._bar.update(self._task, completed=step, values=text)
        is_due = time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES
        if not self._shown and (is_due or step >= self._total_steps):
            self._last_line = time.monotonic()
            remaining = self._bar.tasks[self._task].time_remaining
            eta = "?" if remaining is None else _clock(remaining)
            _LOGGER.info("step %d/%d  %s  remaining %s", step, self._total_steps, text, eta)

    def rewind(self, step: int, *, evaluated: bool = True) -> None:
        """Forgets what was written after a step, for a run that resumes there.

        A line that a crash left half-written is dropped, too. The file is replaced in one go.
        TensorBoard hides its later events when the next one is written.

        Args:
            step: Optimiser steps taken.
            evaluated: Whether what was measured after that step counts; else it will be repeated.
        """
        if not self._enabled:
            return
        self._resumed_at = step
        if not self.metrics_file.exists():
            return
        entries = [
            (line, entry)
            for line, entry in read_metrics(self.metrics_file)
            if entry["step"] <= step
        ]
        repeated = None if evaluated else (step, "eval")
        kept = [line for line, entry in entries if (entry["step"], entry.get("kind")) != repeated]
        new = self.metrics_file.with_suffix(".jsonl.new")
        with new.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in kept)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.metrics_file)

    def close(self) -> None:
        """Takes the bar down, ends the TensorBoard file and draws the curves."""
        if not self._enabled:
            return
        self._bar.stop()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._draw_curves()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _draw_curves(self) -> None:
        draw_curves(self.metrics_file, self.folder / "plots")

    def _log_to_tensorboard(self, step: int, values: Mapping[str, float], kind: str) -> None:
        if self._writer is None:
            # Slow to import, and needed only here.
            from torch.utils.tensorboard import SummaryWriter

            purge = None if self._resumed_at is None else self._resumed_at + 1
            folder = self.folder / "tensorboard"
            self._writer = SummaryWriter(folder, purge_step=purge)
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", float(value), step)
        self._writer.flush()


def _make_bar(console: Console, *, shown: bool) -> Progress:
    """The bar; one that is not shown still estimates the time that remains."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("<"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
        console=console,
        disable=not shown,
        refresh_per_second=4,
        speed_estimate_period=_SPEED_PERIOD,
    )


def _json_number(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _short(name: str) -> str:
    return name.replace("_per_second", "/s")


def _clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
