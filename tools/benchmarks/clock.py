"""Seconds of a call."""

import time
from collections.abc import Callable
from typing import Any

import torch


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
