"""How the threads of the process share its memory."""

import ctypes
from contextlib import suppress

# Of mallopt in glibc's malloc.h.
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
_LARGE = 128 << 10


def share_memory() -> None:
    """Has all threads take memory from one place, and give back at once what held a picture.

    Otherwise each takes it from an arena of its own, up to eight for each core, and keeps there
    what it once needed. Without glibc nothing changes.
    """
    with suppress(AttributeError, OSError, TypeError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_ARENA_MAX, 1)
        allocator.mallopt(_MMAP_THRESHOLD, _LARGE)
