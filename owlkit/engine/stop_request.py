"""Ctrl-C and SIGTERM as a request that the loop answers between two steps."""

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_LOGGER = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Watches for SIGINT (Ctrl-C) and SIGTERM (what a scheduler sends) while it is entered.

    The first one only sets a flag, so that a run can finish its step and save. A further SIGINT
    raises KeyboardInterrupt where the program stands. On exit the former handlers are back.
    Outside the main thread, where Python allows no handlers, nothing is watched.

    Attributes:
        signal: Name of the first signal that came, None before.

    Example:
        >>> with StopRequest() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop.requested, stop.signal
        (True, 'SIGTERM')
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the run should save and leave."""
        return self.signal is not None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not installed from Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.signal = signal.Signals(number).name
            _LOGGER.warning(
                "%s: finishing this step, then saving and leaving; Ctrl-C again leaves at once",
                self.signal,
            )
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
