"""How the threads of the process share its memory."""

import ctypes
from contextlib import suppress

_ARENA_MAX = -8  # M_ARENA_MAX in glibc's malloc.h
_ARENAS = 2


def share_arenas() -> None:
    """Has all threads take memory from a few arenas; without glibc nothing changes.

    Each thread would take an arena of its own otherwise, up to eight for each core, and keep in it
    what it once needed for a picture.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)
