"""Loads and saves through transformers without its progress bars."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Switches transformers' progress bars off and back to what they were.

    A model that loads in a fraction of a second needs no bar, and a library no output of its own.
    """
    bars: Any = logging
    was_enabled = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            bars.enable_progress_bar()
