"""Batches of a training run: which examples each process gets at which step, and who reads them."""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from owlkit.data.reading import use_one_thread
from owlkit.errors import ConfigError

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

PREFETCH = 3
"""Batches that each worker keeps ready."""

T = TypeVar("T")


@dataclass(frozen=True)
class BatchPlan:
    """The indices of the examples of one process, batch by batch.

    Step s trains on the examples s * batch_size to (s + 1) * batch_size - 1, whatever the number of
    processes; each process takes consecutive ones of them, in ``accumulation`` parts. So a run that
    starts at step s sees what it would have seen without the interruption, also on another number
    of processes.

    Attributes:
        batch_size: Examples per step, over all processes and parts.
        total_steps: Steps of the whole run.
        start_step: Steps already done.
        rank: Number of this process, from 0.
        world_size: Number of processes.
        accumulation: Batches that one process gets per step, one after another.

    Raises:
        ConfigError: ``world_size * accumulation`` does not divide ``batch_size``.
    """

    batch_size: int
    total_steps: int
    start_step: int = 0
    rank: int = 0
    world_size: int = 1
    accumulation: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % (self.world_size * self.accumulation):
            raise ConfigError(
                "train.batch_size: expected a multiple of processes x train.accumulation = "
                f"{self.world_size} x {self.accumulation} = {self.world_size * self.accumulation}; "
                f"found {self.batch_size}"
            )

    def __len__(self) -> int:
        return max(self.total_steps - self.start_step, 0) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world_size
        size = share // self.accumulation
        for step in range(self.start_step, self.total_steps):
            first = step * self.batch_size + self.rank * share
            for part in range(first, first + share, size):
                yield list(range(part, part + size))


def build_loader(
    examples: Dataset[T],
    plan: Iterable[list[int]],
    *,
    collate: Callable[[Sequence[T]], Any],
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[T]:
    """Makes the loader of one training process.

    The batches depend on the examples and on the plan, not on the number of workers. With workers,
    a script must start its work under ``if __name__ == "__main__":``, because they are new
    processes that import the script: a fork of a process that has used torch, OpenCV or a GPU may
    hang.

    Args:
        examples: Makes the example of any index, the same whenever it is asked. With workers,
            it must be possible to pickle it.
        plan: Which indices make which batch, for example a :class:`BatchPlan`.
        collate: Joins examples to a batch, which has a method ``pin_memory`` if that is wanted.
            With workers, it must be possible to pickle it.
        workers: Processes that make batches; 0 makes them in this one.
        pin_memory: Put batches into page-locked memory, for transfers to a GPU.

    Returns:
        A loader that yields one batch for each part of each step that is left.
    """
    return DataLoader(
        examples,
        batch_sampler=plan,
        collate_fn=collate,
        pin_memory=pin_memory,
        **worker_options(examples, workers),
    )


def worker_options(examples: Dataset[Any], workers: int) -> dict[str, Any]:
    """What a loader is to be told about its workers.

    Args:
        examples: What they will be given.
        workers: Their number; 0 for none.

    Returns:
        Arguments of :class:`torch.utils.data.DataLoader`.
    """
    return {
        "num_workers": workers,
        "multiprocessing_context": _context(examples) if workers else None,
        "prefetch_factor": PREFETCH if workers else None,
        "worker_init_fn": _start_worker if workers else None,
        # A loader without a generator draws its seed from the one that the training uses.
        "generator": torch.Generator(),
    }


def _context(examples: Dataset[Any]) -> multiprocessing.context.BaseContext:
    """Workers are forked from a clean process that has imported what they need, once for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, type(examples).__module__])
    with _stop_signals_ignored():
        forkserver.ensure_running()
    return context


@contextmanager
def _stop_signals_ignored() -> Iterator[None]:
    """Processes that start inside are born deaf to what asks a whole process group to stop.

    Ctrl-C and schedulers signal every process of a run. The training answers with a checkpoint, for
    which it still has to finish its step.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets no other thread change handlers
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: a handler that was not installed from Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _start_worker(worker: int) -> None:
    """Leaves the other cores to the other workers, and stopping to the training process."""
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    use_one_thread(worker)
