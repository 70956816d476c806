"""What a step reports, and the clock of the meter."""

import math

import pytest
import torch
from accelerate import Accelerator

from owlkit.engine import metrics
from owlkit.engine.metrics import Meter, StepReport, report_step
from tests.engine.toy import toy_batch


def report(loss: float, *, norm: float = 1.0, examples: int = 4) -> StepReport:
    return StepReport({"loss": loss}, norm, examples, images_read=examples, corrupt=0, stop=False)


def test_terms_are_means_over_examples_not_over_parts() -> None:
    found = report_step(
        Accelerator(cpu=True),
        [
            (toy_batch(0, size=3), {"loss": torch.tensor(1.0), "l1": torch.tensor(8.0)}),
            (toy_batch(0, size=1), {"loss": torch.tensor(5.0), "l1": torch.tensor(0.0)}),
        ],
        gradient_norm=torch.tensor(0.5),
        images_read=36,
        corrupt=2,
        stop=True,
        step=0,
    )
    assert found == StepReport(
        {"loss": 2.0, "l1": 6.0}, 0.5, examples=4, images_read=36, corrupt=2, stop=True
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that shows what the test says."""
    now = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    return now


def test_speed_leaves_out_what_is_no_training(clock: list[float]) -> None:
    meter = Meter()
    with meter.waiting():
        clock[0] += 1
    clock[0] += 3
    meter.add(report(2.0))
    clock[0] += 100  # an evaluation
    meter.start()
    clock[0] += 4
    meter.add(report(4.0))
    found = meter.flush()
    assert found["images_per_second"] == 1.0  # 8 images in 4 + 4 seconds
    assert found["data_wait"] == 0.125
    assert found["loss"] == 3.0


def test_flush_starts_a_new_mean() -> None:
    meter = Meter()
    meter.add(report(2.0))
    meter.flush()
    meter.add(report(6.0))
    assert meter.flush()["loss"] == 6.0


def test_skipped_steps_of_float16_do_not_spoil_the_norm() -> None:
    meter = Meter()
    for norm in (2.0, math.inf, 4.0):
        meter.add(report(1.0, norm=norm))
    assert meter.flush()["gradient_norm"] == 3.0
