"""Signals become a request, once; afterwards everything is as before."""

import logging
import os
import signal
import threading

import pytest

from owlkit.engine.stop_request import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request(
    number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(number)
    with caplog.at_level(logging.WARNING), StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal == number.name
    assert f"{number.name}: finishing this step" in caplog.text
    assert signal.getsignal(number) is before
    assert stop.requested, "still to be read after the loop"


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_again_leaves_at_once(first: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.signal == first.name
    assert signal.getsignal(signal.SIGINT) is before


def test_a_scheduler_may_repeat_itself() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signal == "SIGTERM"


def test_an_error_inside_restores_the_handlers() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError, match="inside"), StopRequest():
        raise ValueError("inside")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_other_threads_are_left_alone() -> None:
    seen: list[object] = []

    def watch() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with StopRequest() as stop:
            seen.append(stop.requested)
            seen.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert seen == [False, True]
