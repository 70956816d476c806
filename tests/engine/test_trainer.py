"""The loop: what it computes, when it looks, and how it goes on after being stopped."""

import json
import math
import random
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from owlkit.config import TrainSection
from owlkit.encoders import VisionTower, create_text_tower
from owlkit.engine import RunLog, Trainer, create_accelerator
from owlkit.engine.checkpoint import update_state
from owlkit.errors import CheckpointError, ConfigError, TrainingError
from tests.engine.toy import (
    ToyBatch,
    ToyLog,
    ToyTask,
    load_toy,
    make_trainer,
    toy_batch,
    toy_batches,
)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_a_run_equals_a_loop_by_hand(tmp_path: Path) -> None:
    """Plain torch, step by step: cosine after two steps of warm-up, clipping, AdamW, average."""
    by_hand, task = ToyTask(), ToyTask()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.01, weight_decay=0.0)
    average = [parameter.detach().clone() for parameter in by_hand.parameters()]
    for step in range(8):
        rising = min(step / 2, 1.0)
        falling = 0.5 * (1 + math.cos(math.pi * max(step - 2, 0) / 6))
        optimizer.param_groups[0]["lr"] = 0.01 * rising * falling
        optimizer.zero_grad()
        by_hand(toy_batch(step))["loss"].backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.step()
        for mean, parameter in zip(average, by_hand.parameters(), strict=True):
            mean.mul_(0.9).add_(parameter.detach(), alpha=0.1)
    trainer = make_trainer(tmp_path, task=task, train={"ema_decay": 0.9, "accumulation": 2})
    summary = trainer.fit()
    assert summary.ending == "finished"
    assert (summary.state.step, summary.state.examples) == (8, 64)
    for expected, found in zip(by_hand.parameters(), task.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert trainer.average is not None
    for mean, found in zip(average, trainer.average.model.parameters(), strict=True):
        torch.testing.assert_close(found, mean, rtol=1e-5, atol=1e-6)
    # Without an evaluation, the last averaged weights are the best.
    assert_equal(load_toy(tmp_path / "best"), weights(trainer.average.model))
    assert_equal(load_toy(tmp_path / "last"), weights(task.model))


def test_the_first_update_has_rate_zero(tmp_path: Path) -> None:
    task, start = ToyTask(), weights(ToyTask())
    log = ToyLog()
    make_trainer(tmp_path, task=task, train={"steps": 3, "log_every": 1}, log=log).fit()
    assert [values["lr/image"] for values in log.of("train").values()] == [0.0, 0.005, 0.01]
    assert not torch.equal(task.model.head.weight, start["model.head.weight"])


def noisy_evaluation(model: nn.Module, step: int) -> dict[str, float]:
    """Draws from every generator, as data loaders do; improves first, then no more."""
    assert not any(module.training for module in model.modules())
    assert not torch.is_grad_enabled()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    return {"AP": float(min(step, 4)), "noise": float(torch.rand(1))}


RESUMABLE: dict[str, Any] = {
    "plain": {"train": {"accumulation": 2, "ema_decay": 0.8}},
    "per example": {"optim": {"clip": "per_example"}},
    "sgd, decay": {
        "optim": {"optimizer": "sgd", "lr": 1e-4, "clip": "per_parameter", "weight_decay_end": 0.4}
    },
    "bfloat16": {"train": {"precision": "bfloat16"}, "optim": {"optimizer": "adam"}},
    "frozen, layer decay": {"optim": {"freeze": ("text",), "layer_decay": 0.5}},
}


@pytest.mark.parametrize("kind", list(RESUMABLE))
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, kind: str) -> None:
    settings = {"optim": {}, "train": {}, **RESUMABLE[kind]}
    settings["train"] = {"log_every": 3, **settings["train"]}  # the stop falls between two lines
    settings["evaluate"] = noisy_evaluation
    dropout = 0.0 if kind == "per example" else 0.3  # batch statistics of one example are undefined
    straight, halves = ToyLog(), ToyLog()
    make_trainer(
        tmp_path / "straight", task=ToyTask(dropout=dropout), log=straight, **settings
    ).fit()

    def stopping_batches(start: int) -> Iterator[ToyBatch]:
        for step, batch in enumerate(toy_batches(start), start):
            if step == 3:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    first = make_trainer(
        tmp_path / "halves",
        task=ToyTask(dropout=dropout),
        batches=stopping_batches,
        log=halves,
        **settings,
    ).fit()
    assert (first.ending, first.state.step) == ("interrupted", 4)
    torch.manual_seed(99)  # what a new process starts with does not matter
    second = make_trainer(
        tmp_path / "halves", task=ToyTask(dropout=dropout, seed=5), log=halves, **settings
    )
    summary = second.fit(resume=True)
    assert (summary.ending, summary.state.step, summary.state.best) == ("finished", 8, 4.0)
    assert halves.rewound_to == 4
    for place in ("last", "best"):
        assert_equal(load_toy(tmp_path / "halves" / place), load_toy(tmp_path / "straight" / place))
    states = [
        json.loads((tmp_path / run / "last/training/state.json").read_text())
        for run in ("straight", "halves")
    ]
    assert states[0]["random"] == states[1]["random"]
    for name in ("loss", "gradient_norm", "lr/heads"):
        logged = [{s: v[name] for s, v in log.of("train").items()} for log in (straight, halves)]
        assert logged[0] == logged[1]
    assert straight.of("eval") == halves.of("eval")


def test_evaluation_leaves_no_trace(tmp_path: Path) -> None:
    logs = []
    for evaluate in (None, noisy_evaluation):
        log, task = ToyLog(), ToyTask(dropout=0.3)
        task.model.norm.eval()  # a module that was in evaluation mode on purpose
        trainer = make_trainer(
            tmp_path, task=task, train={"eval_every": 1}, evaluate=evaluate, log=log
        )
        task.model.norm.eval()
        trainer.fit()
        assert task.model.training
        assert not task.model.norm.training
        logs.append({step: values["loss"] for step, values in log.of("train").items()})
    assert logs[0] == logs[1]


def test_the_best_model_is_kept_and_the_end_is_measured_once(tmp_path: Path) -> None:
    scores = {3: 0.5, 6: 0.9, 8: 0.7}
    seen: dict[int, dict[str, Tensor]] = {}

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        assert step not in seen
        seen[step] = weights(model)
        return {"AP": scores[step]}

    task = ToyTask()
    trainer = make_trainer(
        tmp_path, task=task, train={"eval_every": 3, "ema_decay": 0.5}, evaluate=evaluate
    )
    state = trainer.fit().state
    assert list(seen) == [3, 6, 8]
    assert (state.best, state.best_step, state.metrics) == (0.9, 6, {"AP": 0.7})
    assert_equal(load_toy(tmp_path / "best"), seen[6])
    assert trainer.average is not None
    assert_equal(seen[8], weights(trainer.average.model))  # not the raw ones
    assert not torch.equal(seen[8]["head.weight"], task.model.head.weight)


def test_early_stopping(tmp_path: Path) -> None:
    scores = iter([0.5, 0.4, float("nan"), 0.9])
    settings: dict[str, Any] = {"train": {"eval_every": 1, "early_stopping": 2}}
    trainer = make_trainer(tmp_path, evaluate=lambda model, step: {"AP": next(scores)}, **settings)
    summary = trainer.fit()
    assert (summary.ending, summary.state.step, summary.state.best) == ("stopped_early", 3, 0.5)
    again = make_trainer(tmp_path, evaluate=lambda model, step: {"AP": 1.0}, **settings)
    assert again.fit(resume=True) == replace(summary, state=again.state)
    assert again.state.step == 3


SCORES = {2: 0.5, 4: 0.9, 6: 0.7, 8: 0.6}


class Crash(Exception):
    """Stands for whatever ends a process at once."""


def scores_until(crash_at: int | None) -> Any:
    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        if step == crash_at:
            raise Crash
        return {"AP": SCORES[step]}

    return evaluate


def state_on_disk(folder: Path) -> dict[str, Any]:
    state = json.loads((folder / "last/training/state.json").read_text())
    state["run"].pop("seconds")
    return dict(state)


@pytest.mark.parametrize("where", ["measuring", "noting", "asked to stop", "asked at the end"])
def test_a_run_that_dies_around_an_evaluation_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The step itself is not lost, and best model, patience and log are as if nothing happened."""
    step = 8 if where == "asked at the end" else 4
    settings: dict[str, Any] = {
        "train": {"eval_every": 2, "save_every": 100, "early_stopping": 2, "ema_decay": 0.5}
    }
    make_trainer(tmp_path / "whole", evaluate=scores_until(None), **settings).fit()

    def stopping_batches(start: int) -> Iterator[ToyBatch]:
        for number, batch in enumerate(toy_batches(start), start):
            if number == step - 1 and "asked" in where:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    run = tmp_path / "halves"
    with RunLog(run, total_steps=8) as log, monkeypatch.context() as context:
        if where == "noting":
            context.setattr("owlkit.engine.trainer.update_state", crash_at_step(4))
        first = make_trainer(
            run,
            evaluate=scores_until(None if where == "noting" else step),
            batches=stopping_batches,
            log=log,
            **settings,
        )
        if "asked" in where:
            assert first.fit().ending == "interrupted"
        else:
            with pytest.raises(Crash):
                first.fit()
    assert state_on_disk(run)["run"]["step"] == step
    with RunLog(run, total_steps=8) as log:
        second = make_trainer(run, evaluate=scores_until(None), log=log, **settings)
        assert second.fit(resume=True).ending == "finished"
    assert state_on_disk(run) == state_on_disk(tmp_path / "whole")
    for place in ("last", "best"):
        assert_equal(load_toy(run / place), load_toy(tmp_path / "whole" / place))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = [(line["step"], line["AP"]) for line in lines if line["kind"] == "eval"]
    assert measured == list(SCORES.items())


def crash_at_step(step: int) -> Any:
    def update(folder: Path, *, run: dict[str, Any]) -> None:
        if run["step"] == step:
            raise Crash
        update_state(folder, run=run)

    return update


def test_the_old_best_model_is_put_back(tmp_path: Path) -> None:
    """A run was killed between the two renames that replace it; half a first one is no model."""
    settings: dict[str, Any] = {"evaluate": lambda model, step: {"AP": 0.5}}
    make_trainer(tmp_path, train={"steps": 4}, **settings).fit()
    before = load_toy(tmp_path / "best")
    (tmp_path / ".best-abc" / "new").mkdir(parents=True)
    (tmp_path / ".best-abc" / "new" / "owlkit.json").touch()
    (tmp_path / "best").rename(tmp_path / ".best-abc" / "old")
    (tmp_path / ".best-abc" / "old" / "owlkit.json").touch()
    trainer = make_trainer(tmp_path, **settings)
    state = trainer.fit(resume=True).state
    assert (state.best, state.best_step) == (0.5, 4), "what comes later is not better"
    assert_equal(load_toy(tmp_path / "best"), before)
    assert not list(tmp_path.glob(".best-*"))


def test_a_metric_that_is_not_there_is_named(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, evaluate=lambda model, step: {"AP50": 0.5})
    with pytest.raises(TrainingError, match=r"metric 'AP'.*returned \['AP50'\]"):
        trainer.fit()


class Poisoned(ToyTask):
    """Gives a term that is not finite for one image."""

    def __init__(self, source: str, value: float, *, infinite_gradient: bool = False) -> None:
        super().__init__()
        self.source, self.value, self.infinite_gradient = source, value, infinite_gradient

    def forward(self, batch: ToyBatch) -> dict[str, Tensor]:
        terms = super().forward(batch)
        if self.source not in batch.sources:
            return terms
        if self.infinite_gradient:
            return {**terms, "loss": terms["loss"] + (terms["loss"] * 0).sqrt()}
        return {**terms, "square": terms["square"] * self.value}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path: Path, value: float) -> None:
    task = Poisoned("image-5-6", value)
    trainer = make_trainer(tmp_path, task=task, train={"accumulation": 4})
    before: dict[str, Tensor] = {}
    real = trainer.optimizer.step

    def step() -> None:
        real()
        before.update(weights(task))

    trainer.optimizer.step = step
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    message = str(caught.value)
    assert "step 5" in message
    assert f"square {value}" in message
    assert "image-5-6; image-5-7." in message  # its part of the batch, not the others
    assert "image-5-5" not in message
    assert_equal(before, weights(task))
    state = json.loads((tmp_path / "last/training/state.json").read_text())
    assert state["run"]["step"] == 4


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path: Path) -> None:
    """The loss can be finite where its derivative is not, as the root's at 0."""
    task = Poisoned("image-0-0", 0.0, infinite_gradient=True)
    start = weights(task)
    with pytest.raises(TrainingError, match="gradient_norm nan; images: all losses were finite"):
        make_trainer(tmp_path, task=task).fit()
    assert_equal(start, weights(task))


def corrupt_batches(every: int) -> Any:
    def batches(start: int) -> Iterator[ToyBatch]:
        for step, batch in enumerate(toy_batches(start), start):
            yield replace(batch, corrupt=("bad.jpg",)) if step % every == 0 else batch

    return batches


def test_too_many_unreadable_images_stop_the_run(tmp_path: Path) -> None:
    """One in 80 is more than one in 100, which shows after 200 images: with the fourth."""
    trainer = make_trainer(tmp_path, batches=corrupt_batches(10), train={"steps": 100})
    with pytest.raises(TrainingError, match=r"at most 1% unreadable images, found 3 of 200"):
        trainer.fit()


def test_what_counts_is_the_share_of_the_files_that_were_opened(tmp_path: Path) -> None:
    """Three of 200 examples, but of 1,800 files: mosaics of nine."""

    def batches(start: int) -> Iterator[ToyBatch]:
        return (replace(batch, tiles=9) for batch in corrupt_batches(10)(start))

    state = make_trainer(tmp_path, batches=batches, train={"steps": 25}).fit().state
    assert (state.examples, state.images_read, state.corrupt) == (200, 1800, 3)


def test_few_unreadable_images_are_counted(tmp_path: Path) -> None:
    log = ToyLog()
    trainer = make_trainer(tmp_path, batches=corrupt_batches(20), train={"steps": 50}, log=log)
    assert trainer.fit().state.corrupt == 3
    assert log.of("train")[50]["corrupt"] == 3
    assert log.of("train")[50]["images_read"] == 400


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (lambda start: [toy_batch(0), toy_batch(1)], "step 2 of 8.*the end of the data"),
        (lambda start: [toy_batch(0, size=5)], "step 0 of 8: expected 8 examples.*found 5"),
    ],
)
def test_batches_that_do_not_fit_are_refused(tmp_path: Path, batches: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make_trainer(tmp_path, batches=batches).fit()


def test_the_log_has_means_over_the_steps_since_the_last_line(tmp_path: Path) -> None:
    every, other = ToyLog(), ToyLog()
    make_trainer(tmp_path, train={"log_every": 1}, log=every).fit()
    make_trainer(tmp_path, train={"log_every": 3}, log=other).fit()
    single, means = every.of("train"), other.of("train")
    assert list(means) == [3, 6, 8]
    for name in ("loss", "square", "gradient_norm"):
        expected = sum(single[step][name] for step in (4, 5, 6)) / 3
        assert means[6][name] == pytest.approx(expected)
    assert means[6]["examples"] == 48
    assert 0 <= means[6]["data_wait"] <= 1
    assert means[6]["images_per_second"] > 0
    assert means[6]["memory_gib"] > 0.05


def test_nothing_to_resume_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a checkpoint to resume"):
        make_trainer(tmp_path).fit(resume=True)


def test_averaging_can_begin_when_a_run_is_resumed(tmp_path: Path) -> None:
    task = ToyTask()
    make_trainer(tmp_path, task=task).fit()
    trainer = make_trainer(tmp_path, task=ToyTask(seed=3), train={"ema_decay": 0.9})
    trainer.fit(resume=True)
    assert trainer.average is not None
    assert_equal(weights(trainer.average.model), weights(task.model))


def test_a_best_model_that_is_gone_is_written_again(tmp_path: Path) -> None:
    """A run may be killed while it replaces the best model."""
    settings: dict[str, Any] = {"evaluate": lambda model, step: {"AP": 0.5}}
    make_trainer(tmp_path, train={"steps": 4}, **settings).fit()
    (tmp_path / "best" / "model.safetensors").unlink()
    (tmp_path / "best").rmdir()
    make_trainer(tmp_path, **settings).fit(resume=True)
    assert (tmp_path / "best" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"batch_size": 6, "accumulation": 4}, r"multiple of .*\(1 x 4\), found 6"),
        ({"precision": "float16"}, "train.precision float16"),
    ],
)
def test_settings_that_cannot_work_are_refused(train: dict[str, Any], message: str) -> None:
    section = TrainSection(**train)
    with pytest.raises(ConfigError, match=message):
        create_accelerator(section, cpu=True)


def test_an_accelerator_of_ones_own_must_suit_the_batch(tmp_path: Path) -> None:
    train = {"batch_size": 6, "accumulation": 4}
    with pytest.raises(ConfigError, match=r"multiple of .*\(1 x 4\), found 6"):
        make_trainer(tmp_path, train=train, accelerator=Accelerator(cpu=True))


def test_a_compiled_run_compiles_the_towers_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once each, a teacher's and its student's."""
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    task = ToyTask()
    text = create_text_tower(
        vocab_size=9, context_length=4, width=8, depth=1, heads=1, embed_width=8
    )
    task.model.vision, task.model.text = VisionTower("resnet18", image_size=32), text
    task.teacher = nn.ModuleDict({"vision": task.model.vision})
    task.student = nn.ModuleDict({"vision": VisionTower("resnet18", image_size=32)})
    make_trainer(tmp_path, task=task, train={"compile": True})
    assert compiled == [task.model.vision, text, task.student["vision"]]


def test_weight_decay_follows_a_cosine(tmp_path: Path) -> None:
    """And only where there is any; the log tells it."""
    log = ToyLog()
    optim = {"weight_decay": 0.0, "weight_decay_end": 0.4}
    train = {"steps": 4, "log_every": 1}
    trainer = make_trainer(tmp_path, optim=optim, train=train, log=log)
    trainer.fit()
    expected = [0.4 - 0.4 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    found = [values["weight_decay"] for values in log.of("train").values()]
    assert found == pytest.approx(expected)
    decays = {group["decays"]: group["weight_decay"] for group in trainer.optimizer.param_groups}
    assert decays == {True: pytest.approx(expected[-1]), False: 0.0}


def test_the_configuration_is_written_and_the_one_before_kept(tmp_path: Path) -> None:
    for steps, text in ((3, "seed: 1\n"), (5, "seed: 2\n"), (6, "seed: 2\n")):
        trainer: Trainer = make_trainer(tmp_path, train={"steps": steps})
        trainer.output = replace(trainer.output, config_text=text)
        trainer.fit(resume=steps > 3)
        assert (tmp_path / "config.yaml").read_text() == text
    kept = {path.name: path.read_text() for path in tmp_path.glob("config_*")}
    assert kept == {"config_before_step_3.yaml": "seed: 1\n"}
