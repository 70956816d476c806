"""Two ways to do one thing, timed in turn."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.clock import seconds
from benchmarks.floor import Work, rates
from benchmarks.table import line

Function = Callable[[], Any]
Watcher = Callable[[str, Function], None]

_watchers: list[Watcher] = []


@dataclass(frozen=True)
class Row:
    """One comparison; seconds are medians, spread is the range of the ratio over its median.

    Attributes:
        path: Name of the comparison.
        peer: What owlkit is compared with.
        ratio: Peer's over owlkit's seconds, pair by pair; above 1 owlkit is faster.
        owlkit_s: Seconds of owlkit.
        peer_s: Seconds of the peer.
        spread: Of the ratio, relative.
        settings: Sizes, precision, what is ready before the clock starts.
        gflop: Work that owlkit's side cannot do without, in 1e9 operations; None if not counted.
        floor_s: Seconds of that work at the machine's own rates, see :mod:`benchmarks.floor`.
        floor_share: ``floor_s / owlkit_s``; where products are the floor, the utilisation of the
            processor by the model's operations.
        gpu_mib: Most memory of the GPU that owlkit's side held, its model included; None without.
        peer_gpu_mib: The same of the peer, while owlkit's model is there too.
    """

    path: str
    peer: str
    ratio: float
    owlkit_s: float
    peer_s: float
    spread: float
    settings: str
    gflop: float | None = None
    floor_s: float | None = None
    floor_share: float | None = None
    gpu_mib: float | None = None
    peer_gpu_mib: float | None = None


def compare(
    ours: Function,
    theirs: Function,
    *,
    path: str,
    peer: str,
    settings: str,
    repeats: int,
    warm_up: bool = True,
    work: Work | None = None,
) -> Row:
    """Times two functions in turn.

    Args:
        ours: What owlkit does.
        theirs: What the peer does for the same answer.
        path: See :class:`Row`, like ``peer`` and ``settings``.
        peer: Its name.
        settings: What was compared.
        repeats: Pairs.
        warm_up: Call both once before.
        work: What owlkit's side cannot do without.
    """
    if warm_up:
        ours()
        theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    memory = {"gpu_mib": _gpu_mib(ours), "peer_gpu_mib": _gpu_mib(theirs)}
    row = summarise(pairs, path=path, peer=peer, settings=settings, work=work, **memory)
    for watch in _watchers:
        watch(path, ours)
    return row


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Hands owlkit's side of each comparison inside, with its path, to a function, after timing."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def summarise(
    pairs: Sequence[tuple[float, float]],
    *,
    path: str,
    peer: str,
    settings: str,
    work: Work | None = None,
    **memory: float | None,
) -> Row:
    """Prints and returns the row of (owlkit, peer) seconds that were measured one after another."""
    ratios = [their / our for our, their in pairs]
    ratio = statistics.median(ratios)
    owlkit_s = statistics.median(our for our, _ in pairs)
    floor_s = work and rates().seconds(work)
    row = Row(
        path=path,
        peer=peer,
        ratio=ratio,
        owlkit_s=owlkit_s,
        peer_s=statistics.median(their for _, their in pairs),
        spread=(max(ratios) - min(ratios)) / ratio,
        settings=settings,
        gflop=work and work.gflop,
        floor_s=floor_s,
        floor_share=floor_s and floor_s / owlkit_s,
        **memory,
    )
    print(line(asdict(row)), flush=True)
    return row


def _gpu_mib(function: Function) -> float | None:
    """Most memory of the GPU that lives during a further call."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    function()
    return torch.cuda.max_memory_allocated() / 2**20
