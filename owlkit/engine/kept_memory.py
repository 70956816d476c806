"""Memory that the steps of a run on a CPU hand on to one another.

By mallopt of the GNU C library, https://man7.org/linux/man-pages/man3/mallopt.3.html.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# Of mallopt in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
# What glibc grows its thresholds to by itself once blocks as large as activations were given back,
# and how many of them it maps one by one.
_LARGEST_BLOCK = 32 << 20
_USUAL_MAPS = 65_536


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Has the process keep what it frees, and use it again, as torch does on GPUs by itself.

    glibc otherwise gives each block of more than 32 MiB back to the system, which clears every page
    of it before the next step gets it again: of a detector's step on 2 cores that was a third.
    Afterwards memory is given back again, what was kept included. Where the allocator is another
    than glibc's, nothing changes.

    Args:
        device: Of the run; anything but a CPU is left alone.
    """
    mallopt = _glibc_mallopt() if device.type == "cpu" else None
    if mallopt is None:
        yield
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)  # the largest there is
    try:
        yield
    finally:
        mallopt(_MMAP_MAX, _USUAL_MAPS)
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_BLOCK)
        ctypes.CDLL(None).malloc_trim(0)


def _glibc_mallopt() -> Callable[[int, int], int] | None:
    if sys.platform != "linux":
        return None
    found: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    return found
