"""Two ways to do one thing, timed in turn."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

HEADER = (
    "| path | settings | peer | ratio | owlkit s | peer s | spread |\n|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Row:
    """One comparison; seconds are medians, spread is the range of the ratio over its median."""

    path: str
    peer: str
    ratio: float
    owlkit_s: float
    peer_s: float
    spread: float
    settings: str


def compare(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    path: str,
    peer: str,
    settings: str,
    repeats: int,
    warm_up: bool = True,
) -> Row:
    """Times two functions in turn."""
    if warm_up:
        ours()
        theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    return summarise(pairs, path=path, peer=peer, settings=settings)


def seconds(function: Callable[[], Any]) -> float:
    """How long a call takes, until the GPU, if there is one, has finished too."""
    synchronise()
    start = time.perf_counter()
    function()
    synchronise()
    return time.perf_counter() - start


def synchronise() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def summarise(pairs: Sequence[tuple[float, float]], *, path: str, peer: str, settings: str) -> Row:
    """Prints and returns the row of (owlkit, peer) seconds that were measured one after another."""
    ratios = [their / our for our, their in pairs]
    ratio = statistics.median(ratios)
    row = Row(
        path=path,
        peer=peer,
        ratio=ratio,
        owlkit_s=statistics.median(our for our, _ in pairs),
        peer_s=statistics.median(their for _, their in pairs),
        spread=(max(ratios) - min(ratios)) / ratio,
        settings=settings,
    )
    print(
        f"| {row.path} | {row.settings} | {row.peer} | {row.ratio:.2f} | {row.owlkit_s:.3f} | "
        f"{row.peer_s:.3f} | {row.spread:.0%} |",
        flush=True,
    )
    return row
