"""What changes in an optimiser's groups from step to step: learning rates and weight decay."""

from torch.optim import Optimizer

from owlkit.config import OptimSection
from owlkit.engine.schedule import cosine_ramp, learning_rate_schedule


class GroupSchedule:
    """Sets the rates and decays of each step.

    Args:
        optimizer: Its groups have ``peak_lr``, ``decays`` and ``part``, as
            :func:`~owlkit.engine.parameter_groups.parameter_groups` makes them.
        optim: Schedule and decays.
        steps: Updates of the whole run.

    Raises:
        ConfigError: If warm-up and cool-down leave no step between them.
    """

    def __init__(self, optimizer: Optimizer, optim: OptimSection, *, steps: int) -> None:
        self._optimizer = optimizer
        self._factor = learning_rate_schedule(optim, steps=steps)
        self._decays = (optim.weight_decay, optim.weight_decay_end)
        self._steps = steps

    def set(self, step: int) -> None:
        """Prepares the groups for update number ``step``, from 0."""
        factor, decay = self._factor(step), self._weight_decay(step)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
            group["weight_decay"] = decay if group["decays"] else 0.0

    def report(self) -> dict[str, float]:
        """What was set last, for the log.

        Returns:
            ``lr/<part>``, with layer decay that of its fastest layer; ``weight_decay`` if it
            changes over the run.
        """
        report: dict[str, float] = {}
        for group in self._optimizer.param_groups:
            name = f"lr/{group['part']}"
            report[name] = max(report.get(name, 0.0), group["lr"])
        if self._decays[1] is not None:
            report["weight_decay"] = max(g["weight_decay"] for g in self._optimizer.param_groups)
        return report

    def _weight_decay(self, step: int) -> float:
        start, end = self._decays
        return start if end is None else cosine_ramp(step, start=start, end=end, total=self._steps)
