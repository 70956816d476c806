"""How numbers change over a run: functions of the step.

Learning rates are given as factors of the peak rate. Steps count optimiser updates from 0, so with
a warm-up the first update has rate 0, as in the original OWL-ViT code.
"""

import math
from collections.abc import Callable

from owlkit.config import OptimSection
from owlkit.errors import ConfigError


def learning_rate_schedule(optim: OptimSection, *, steps: int) -> Callable[[int], float]:
    """The schedule of a run.

    Args:
        optim: Its kind, warm-up, cool-down, timescale and end.
        steps: Updates of the whole run.

    Returns:
        The factor of the peak rates for update number 0 to ``steps - 1``.

    Raises:
        ConfigError: If warm-up and cool-down leave no step between them.
    """
    ends = optim.warmup_steps + optim.cooldown_steps
    if ends >= steps:
        raise ConfigError(
            f"optim.warmup_steps and optim.cooldown_steps together must be less than train.steps "
            f"({steps}), found {optim.warmup_steps} and {optim.cooldown_steps}"
        )

    def factor(step: int) -> float:
        rising = warmup(step, steps=optim.warmup_steps)
        falling = cooldown(step, total=steps, steps=optim.cooldown_steps)
        if optim.schedule == "cosine":
            falling = cosine(step, total=steps, warmup_steps=optim.warmup_steps)
            lowest = optim.final_lr / optim.lr
            return rising * (lowest + (1.0 - lowest) * falling)
        if optim.schedule == "inverse_sqrt":
            behind = max(step - optim.warmup_steps, 0)
            return rising * falling * inverse_sqrt(behind, timescale=optim.timescale)
        return rising * falling

    return factor


def warmup(step: int, *, steps: int) -> float:
    """Rises linearly from 0 to 1 over the first ``steps`` updates; 1 everywhere for 0."""
    return min(step / steps, 1.0) if steps else 1.0


def cooldown(step: int, *, total: int, steps: int) -> float:
    """Falls linearly over the last ``steps`` of ``total`` updates, to 0 just after the last."""
    return min((total - step) / steps, 1.0) if steps else 1.0


def cosine(step: int, *, total: int, warmup_steps: int) -> float:
    """Half a cosine from 1 at the end of the warm-up to 0 just after the last update.

    From SGDR, 2016, https://arxiv.org/abs/1608.03983, without restarts.

    Example:
        >>> [round(cosine(step, total=110, warmup_steps=10), 3) for step in (0, 10, 60, 110)]
        [1.0, 1.0, 0.5, 0.0]
    """
    return cosine_ramp(step - warmup_steps, start=1.0, end=0.0, total=total - warmup_steps)


def inverse_sqrt(step: int, *, timescale: int) -> float:
    """Falls with the root of the step, and needs no end to be known in advance.

    As OWLv2 took it from Scaling Vision Transformers, 2021, https://arxiv.org/abs/2106.04560.

    Args:
        step: Updates since the warm-up.
        timescale: After three times as many steps the factor is 1/2.

    Example:
        >>> [inverse_sqrt(step, timescale=100) for step in (0, 300, 800)]
        [1.0, 0.5, 0.3333333333333333]
    """
    return 1.0 / math.sqrt(1.0 + step / timescale)


def cosine_ramp(step: int, *, start: float, end: float, total: int) -> float:
    """Half a cosine from ``start`` at step 0 to ``end`` at step ``total``, just after the last.

    As DINO changes weight decay and the teacher's momentum, 2021,
    https://arxiv.org/abs/2104.14294. Before and behind it is constant; ``total`` is at least 1.

    Example:
        >>> [cosine_ramp(step, start=0.5, end=1.0, total=4) for step in (0, 2, 4, 5)]
        [0.5, 0.75, 1.0, 1.0]
    """
    done = min(max(step / total, 0.0), 1.0)
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * done))


def linear_ramp(step: int, *, start: float, end: float, steps: int) -> float:
    """A straight line from ``start`` to ``end``, both among the first ``steps``; then constant.

    As DINO warms up the teacher's temperature. With ``steps`` 0 it is ``end`` everywhere.

    Example:
        >>> [linear_ramp(step, start=0.0, end=1.0, steps=3) for step in (0, 1, 2, 3)]
        [0.0, 0.5, 1.0, 1.0]
    """
    if step >= steps:
        return end
    return start + (end - start) * step / max(steps - 1, 1)
