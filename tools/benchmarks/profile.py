"""Where the time of a call goes."""

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

_ROWS = 15

Function = Callable[[], Any]
Entry = tuple[str, float, int]
"""Name, own time in any unit, calls."""


def profile_tables(path: str, function: Function) -> str:
    """Markdown tables of one call: torch's operations, if there are any, and Python's functions.

    Times are those of the operation itself, without what it calls. A GPU's kernels come first,
    where there is one. What other processes do is not seen.

    Args:
        path: Goes into the captions.
        function: Has been called before.
    """
    tables = {"operation": _operations(function), "function of Python": _functions(function)}
    return "\n\n".join(_table(path, what, entries) for what, entries in tables.items() if entries)


def _operations(function: Function) -> list[Entry]:
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        function()
        if on_gpu:
            torch.cuda.synchronize()
    time = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return [(one.key, getattr(one, time), one.count) for one in profiler.key_averages()]


def _functions(function: Function) -> list[Entry]:
    profiler = cProfile.Profile()
    profiler.runcall(function)
    statistics: Any = pstats.Stats(profiler)
    return [
        (f"{Path(file).name}:{number} {name}" if number else name, own, calls)
        for (file, number, name), (_, calls, own, _, _) in statistics.stats.items()
    ]


def _table(path: str, what: str, entries: list[Entry]) -> str:
    total = sum(own for _, own, _ in entries) or 1.0
    largest = sorted(entries, key=lambda entry: -entry[1])[:_ROWS]
    lines = [f"| {name} | {own / total:.1%} | {calls} |" for name, own, calls in largest if own]
    return "\n".join(
        [f"`{path}` by {what}:\n", f"| {what} | share | calls |", "|---|---|---|", *lines]
    )
