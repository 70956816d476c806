"""What a task may do around the steps of the loop."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from owlkit.errors import TrainingError
from tests.engine.toy import ToyBatch, ToyLog, ToyTask, load_toy, make_trainer


class HookedTask(ToyTask):
    """Notes when it is called, and doubts the run at a step."""

    def __init__(self, *, doubts: int = 99) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.doubts = doubts

    def begin_step(self, step: int) -> None:
        self.calls.append(f"begin {step}")

    def prepare(self, batch: ToyBatch) -> ToyBatch:
        self.calls.append("prepare")
        return batch

    def forward(self, batch: ToyBatch) -> dict[str, Tensor]:
        self.calls.append("forward")
        return super().forward(batch)

    def finish_step(self) -> None:
        assert all(parameter.grad is None for parameter in self.parameters())
        self.calls.append("finish")
        with torch.no_grad():
            self.model.head.weight.zero_()

    def check_means(self, step: int, means: Mapping[str, float]) -> None:
        self.calls.append(f"check {step}")
        self.means = dict(means)
        if step >= self.doubts:
            raise TrainingError(f"step {step}: collapsed")


def test_a_task_is_called_around_its_steps(tmp_path: Path) -> None:
    task, log = HookedTask(), ToyLog()
    make_trainer(tmp_path, task=task, train={"steps": 4, "accumulation": 2}, log=log).fit()
    step = ["prepare", "forward", "forward", "finish"]
    second = [*step, "begin 1", *step, "check 2", "begin 2", *step]
    assert task.calls == ["begin 0", *second, "begin 3", *step, "check 4"]
    assert task.means["square"] == log.of("train")[4]["square"]
    saved = load_toy(tmp_path / "last")
    assert not saved["head.weight"].any(), "what finish_step does is saved"


def test_a_task_may_end_a_run_that_has_gone_astray(tmp_path: Path) -> None:
    task, log = HookedTask(doubts=5), ToyLog()
    with pytest.raises(TrainingError, match="step 6: collapsed"):
        make_trainer(tmp_path, task=task, log=log).fit()
    assert list(log.of("train")) == [2, 4, 6], "the line that says why is there"
    state = json.loads((tmp_path / "last/training/state.json").read_text())
    assert state["run"]["step"] == 4
