"""Loads and saves through transformers without its progress bars and tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Switches transformers' progress bars and reports off and back to what they were.

    A model that loads in a fraction of a second needs no bar, and what is missing is reported by
    owlkit's own errors.
    """
    bars: Any = logging
    was_enabled = bars.is_progress_bar_enabled()
    verbosity = bars.get_verbosity()
    bars.disable_progress_bar()
    bars.set_verbosity_error()
    try:
        yield
    finally:
        if was_enabled:
            bars.enable_progress_bar()
        bars.set_verbosity(verbosity)
