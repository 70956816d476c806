"""What a training step reports, and the means over steps that are logged."""

import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import gather_object  # type: ignore[import-untyped]
from torch import Tensor

from owlkit.engine.task import Batch
from owlkit.errors import TrainingError

Outcome = tuple[Batch, Mapping[str, Tensor]]
"""A part of a batch and the terms that the task returned for it."""


@dataclass(frozen=True)
class StepReport:
    """One step, over all processes.

    Attributes:
        terms: Mean of the loss and of each further term over the examples.
        gradient_norm: Before clipping; for per-example clipping the mean of the examples' norms.
        examples: Number of examples.
        images_read: Image files that were opened.
        corrupt: Those of them that could not be read.
        stop: Whether any process was asked to stop.
    """

    terms: dict[str, float]
    gradient_norm: float
    examples: int
    images_read: int
    corrupt: int
    stop: bool


def report_step(
    accelerator: Accelerator,
    outcomes: Sequence[Outcome],
    *,
    gradient_norm: Tensor,
    images_read: int,
    corrupt: int,
    stop: bool,
    step: int,
) -> StepReport:
    """Makes all processes know the same about a step, before any of them changes a weight.

    There is one exchange between processes and one wait for the device; without it, a loss that is
    not finite would be noticed only after it has spoilt the weights.

    Args:
        accelerator: Runs the processes, all of which must call this.
        outcomes: The parts of this process's batch with the same terms each; at least one.
        gradient_norm: Scalar.
        images_read: Image files that were opened for this process's batch.
        corrupt: Those of them that could not be read.
        stop: Whether this process was asked to stop.
        step: For the message.

    Raises:
        TrainingError: On all processes, if a term or the gradient is not finite anywhere; names
            the terms and the images. In float16 a gradient may overflow: the step is then skipped.
    """
    names = list(outcomes[0][1])
    examples = sum(len(part) for part, _ in outcomes)
    values = [
        torch.stack([terms[name].detach().float() for name in names]) * (len(part) / examples)
        for part, terms in outcomes
    ]
    counts = torch.tensor([images_read, corrupt, stop], device=gradient_norm.device)
    # A NaN anywhere stays one in these sums; an infinity does or becomes one.
    summary = torch.cat([torch.stack(values).sum(dim=0), gradient_norm.float()[None], counts])
    total = accelerator.reduce(summary, "sum").tolist()
    *means, norm = (value / accelerator.num_processes for value in total[:-3])
    report = StepReport(
        terms=dict(zip(names, means, strict=True)),
        gradient_norm=norm,
        examples=examples * accelerator.num_processes,
        images_read=round(total[-3]),
        corrupt=round(total[-2]),
        stop=total[-1] > 0,
    )
    checked = means if accelerator.scaler is not None else [*means, norm]
    if not all(math.isfinite(value) for value in checked):
        found = {**report.terms, "gradient_norm": norm}
        bad = [f"{name} {value}" for name, value in found.items() if not math.isfinite(value)]
        images = gather_object([source for part in outcomes for source in _suspects(*part)])
        raise TrainingError(
            f"step {step}: expected finite losses and gradients, found {', '.join(bad)}; images: "
            f"{'; '.join(images) or 'all losses were finite'}. The weights were not changed by "
            "this step; the last checkpoint holds those of an earlier one."
        )
    return report


def _suspects(part: Batch, terms: Mapping[str, Tensor]) -> Sequence[str]:
    """The images of a part, if any of its terms is not finite."""
    return () if all(bool(value.isfinite()) for value in terms.values()) else part.sources


_COUNTS = ("steps", "finite_norms", "examples", "seconds", "waited")


class Meter:
    """Means of what steps report, their speed, and how long they waited for data.

    Only what happens between :meth:`start` and :meth:`add`, and from one :meth:`add` to the next,
    counts as time of the training.
    """

    def __init__(self) -> None:
        self._clear()
        self.start()

    def _clear(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._steps = self._finite_norms = self._examples = 0
        self._seconds = self._waited = 0.0

    def state(self) -> dict[str, Any]:
        """What is in the means so far, ready for JSON."""
        return {"sums": dict(self._sums), **{name: getattr(self, f"_{name}") for name in _COUNTS}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on with the means of another meter's :meth:`state`."""
        self._sums = defaultdict(float, state["sums"])
        for name in _COUNTS:
            setattr(self, f"_{name}", state[name])

    def start(self) -> None:
        """Lets the clock run from now, after something that was no training."""
        self._clock = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What happens inside is waiting for data."""
        before = time.perf_counter()
        yield
        self._waited += time.perf_counter() - before

    def add(self, report: StepReport) -> None:
        """Takes a step into the means."""
        now = time.perf_counter()
        self._seconds += now - self._clock
        self._clock = now
        self._steps += 1
        self._examples += report.examples
        for name, value in report.terms.items():
            self._sums[name] += value
        if math.isfinite(report.gradient_norm):
            self._finite_norms += 1
            self._sums["gradient_norm"] += report.gradient_norm

    @property
    def images_per_second(self) -> float:
        """Speed since the last :meth:`flush`, over all processes."""
        return self._examples / max(self._seconds, 1e-9)

    def flush(self) -> dict[str, float]:
        """The means since the last call.

        Returns:
            The terms; ``gradient_norm``; ``images_per_second`` over all processes; ``data_wait``,
            the share of the time in which this process waited for data.
        """
        counts = {"gradient_norm": max(self._finite_norms, 1)}
        means = {name: total / counts.get(name, self._steps) for name, total in self._sums.items()}
        means["images_per_second"] = self.images_per_second
        means["data_wait"] = self._waited / max(self._seconds, 1e-9)
        self._clear()
        return means


def peak_memory_gib(device: torch.device) -> float:
    """Most memory this process ever held, in GiB: on the GPU if it uses one, else of the host.

    NaN where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows has no such module
        return math.nan
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
