"""Schedules against scenic's samples and against what defines them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from owlkit.config import OptimSection
from owlkit.engine.schedule import cosine_ramp, learning_rate_schedule, linear_ramp
from owlkit.errors import ConfigError


def test_scenic_samples(golden: Callable[[str], Path]) -> None:
    """OWL-ViT B/32: 5e-5, 1,000 steps of warm-up, 140,000 in all; scenic computes in float32."""
    samples = json.loads((golden("scenic_tiny") / "owl_goldens.json").read_text())["lr_b32"]
    factor = learning_rate_schedule(OptimSection(warmup_steps=1000), steps=140_000)
    assert len(samples) == 8
    for step, expected in samples.items():
        assert 5e-5 * factor(int(step)) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_inverse_sqrt_is_flat_then_halves_every_fourfold_time() -> None:
    optim = OptimSection(schedule="inverse_sqrt", warmup_steps=10, timescale=100)
    factor = learning_rate_schedule(optim, steps=100_000)
    assert factor(0) == 0.0
    assert factor(5) == pytest.approx(0.5)
    assert factor(10) == 1.0
    assert factor(10 + 300) == pytest.approx(0.5)
    assert factor(10 + 40_000) / factor(10 + 10_000) == pytest.approx(0.5, rel=0.01)
    assert factor(99_999) > 0.03  # open-ended


@pytest.mark.parametrize("kind", ["inverse_sqrt", "constant"])
def test_cooldown_falls_linearly_to_nothing(kind: str) -> None:
    optim = OptimSection(schedule=kind, warmup_steps=0, cooldown_steps=100, timescale=10**12)
    factor = learning_rate_schedule(optim, steps=1000)
    assert factor(0) == 1.0
    assert factor(900) == pytest.approx(1.0)
    assert factor(950) == pytest.approx(0.5)
    assert factor(999) == pytest.approx(0.01)


@pytest.mark.parametrize("kind", ["cosine", "inverse_sqrt", "constant"])
def test_a_schedule_never_leaves_the_unit_interval(kind: str) -> None:
    factor = learning_rate_schedule(OptimSection(schedule=kind, warmup_steps=7), steps=50)
    factors = [factor(step) for step in range(50)]
    assert factors[0] == 0.0
    assert factors[7] == max(factors) == 1.0
    assert min(factors) == 0.0
    assert factors[7:] == sorted(factors[7:], reverse=True)


def test_a_warmup_that_fills_the_run_is_refused() -> None:
    """The default warm-up is 1,000 steps; a short run would never learn, without any error."""
    with pytest.raises(ConfigError, match=r"less than train.steps \(1000\), found 1000 and 0"):
        learning_rate_schedule(OptimSection(), steps=1000)


def test_dino_samples(golden: Callable[[str], Path]) -> None:
    """Momentum, weight decay, learning rate and teacher temperature of DINO's own code."""
    samples = np.load(golden("05_dino") / "outputs.npz")
    momentum = [cosine_ramp(step, start=0.996, end=1.0, total=35) for step in range(35)]
    np.testing.assert_allclose(momentum, samples["schedule_momentum"], rtol=1e-12)
    decay = [cosine_ramp(step, start=0.04, end=0.4, total=40) for step in range(40)]
    np.testing.assert_allclose(decay, samples["schedule_wd"], rtol=1e-12)
    rising = [linear_ramp(step, start=0.0, end=5e-4, steps=18) for step in range(18)]
    falling = [cosine_ramp(step, start=5e-4, end=1e-6, total=36) for step in range(36)]
    np.testing.assert_allclose([*rising, *falling], samples["schedule_lr_warmup"], rtol=1e-12)
    temperature = [linear_ramp(epoch, start=0.04, end=0.07, steps=3) for epoch in range(8)]
    np.testing.assert_allclose(temperature, samples["w1_dino1_teacher_temp_schedule"], rtol=1e-12)


def test_cosine_ends_where_it_should(golden: Callable[[str], Path]) -> None:
    """DINO's learning rate after the warm-up; ours rises to the peak one step later."""
    expected = np.load(golden("05_dino") / "outputs.npz")["schedule_lr_warmup"][18:]
    optim = OptimSection(lr=5e-4, final_lr=1e-6, warmup_steps=18)
    factor = learning_rate_schedule(optim, steps=54)
    np.testing.assert_allclose([5e-4 * factor(s) for s in range(18, 54)], expected, rtol=1e-12)
    assert factor(9) == 0.5


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        ({"schedule": "constant", "final_lr": 1e-6}, "final_lr belongs to cosine; constant has"),
        ({"lr": 1e-4, "final_lr": 1e-3}, r"at most lr \(0.0001\), found 0.001"),
    ],
)
def test_an_end_that_is_not_reached_is_refused(optim: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OptimSection.model_validate(optim)
