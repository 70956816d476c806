"""What a run writes about itself can be read back, and survives a crash."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from owlkit.engine import run_log
from owlkit.engine.run_log import RunLog
from owlkit.errors import TrainingError


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_are_on_disk_at_once(tmp_path: Path) -> None:
    before = time.time()
    log = RunLog(tmp_path / "runs" / "a", total_steps=10)
    log.log(1, {"loss": 2.5, "count": 3})
    log.log(2, {"AP": 0.25}, kind="eval")
    first, second = read(log.folder)
    assert before - 1 < first.pop("time") < time.time() + 1
    assert first == {"step": 1, "kind": "train", "loss": 2.5, "count": 3.0}
    assert (second["step"], second["kind"], second["AP"]) == (2, "eval", 0.25)


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    log = RunLog(tmp_path, total_steps=10)
    log.log(1, {"loss": float("nan"), "giou": float("inf"), "l1": -float("inf")})
    text = log.metrics_file.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    (entry,) = read(tmp_path)
    assert [entry[name] for name in ("loss", "giou", "l1")] == [None, None, None]


def test_values_cannot_replace_the_step(tmp_path: Path) -> None:
    log = RunLog(tmp_path, total_steps=10)
    with pytest.raises(TrainingError, match=r"step 3: .*\['step', 'time'\]"):
        log.log(3, {"step": 1.0, "loss": 1.0, "time": 2.0})
    assert not log.metrics_file.exists()


def test_rewind_keeps_lines_as_they_were(tmp_path: Path) -> None:
    log = RunLog(tmp_path, total_steps=10)
    for step in (1, 2, 3, 4):
        log.log(step, {"loss": 1 / step})
    lines = log.metrics_file.read_text().splitlines(keepends=True)
    with log.metrics_file.open("a") as file:
        file.write('{"step": 2, "kind": "tr')
    resumed = RunLog(tmp_path, total_steps=10)
    resumed.rewind(2)
    assert log.metrics_file.read_text() == "".join(lines[:2])
    resumed.log(3, {"loss": 9.0})
    assert [entry["step"] for entry in read(tmp_path)] == [1, 2, 3]
    assert read(tmp_path)[-1]["loss"] == 9.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_a_crash_while_rewinding_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLog(tmp_path, total_steps=10)
    log.log(1, {"loss": 1.0})
    before = log.metrics_file.read_text()

    def crash(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(run_log.os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        log.rewind(0)
    assert log.metrics_file.read_text() == before


def test_rewinding_a_new_run_does_nothing(tmp_path: Path) -> None:
    RunLog(tmp_path, total_steps=10).rewind(5)
    assert list(tmp_path.iterdir()) == []


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_shows_the_same_and_forgets_on_resume(tmp_path: Path) -> None:
    with RunLog(tmp_path, total_steps=10, tensorboard=True) as log:
        for step in (1, 2, 3):
            log.log(step, {"loss": float(step)})
        log.log(3, {"AP": 0.5}, kind="eval")
    assert scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert scalars(tmp_path, "eval/AP") == [(3, 0.5)]
    with RunLog(tmp_path, total_steps=10, tensorboard=True) as log:
        log.rewind(1)
        log.log(2, {"loss": 9.0})
    assert scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 9.0)]


def test_closing_draws_curves_even_after_an_error(tmp_path: Path) -> None:
    def run_and_fail() -> None:
        with RunLog(tmp_path, total_steps=10) as log:
            log.log(1, {"loss": 1.0})
            log.progress(1, {"loss": 1.0})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run_and_fail()
    assert (tmp_path / "plots" / "loss.png").exists()
    assert not (tmp_path / "tensorboard").exists()


def test_evaluations_draw_curves_while_the_run_goes_on(tmp_path: Path) -> None:
    log = RunLog(tmp_path, total_steps=10)
    log.log(1, {"loss": 1.0})
    assert not (tmp_path / "plots").exists(), "not for each line"
    log.log(1, {"AP": 0.5}, kind="eval")
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"loss.png", "ap.png"}


def test_other_processes_do_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    options = {"tensorboard": True, "progress": True, "enabled": False}
    with caplog.at_level(logging.INFO), RunLog(folder, total_steps=1, **options) as log:
        log.rewind(0)
        log.log(1, {"loss": 1.0})
        log.log(1, {"AP": 1.0}, kind="eval")
        log.progress(1, {"loss": 1.0})
    assert not folder.exists()
    assert caplog.text == ""
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_lines_go_to_the_log_now_and_then(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: clock[0])
    log = RunLog(tmp_path, total_steps=100)
    with caplog.at_level(logging.INFO):
        for step in range(1, 101):
            clock[0] += 1
            log.progress(step, {"loss": 1.23456, "images_per_second": 64.0})
    log.close()
    steps = [record.message.split()[1] for record in caplog.records]
    assert steps == ["30/100", "60/100", "90/100", "100/100"]
    assert caplog.records[-1].message == (
        "step 100/100  loss 1.235  images/s 64  remaining 0:00:00"
    )
    assert capsys.readouterr() == ("", "")


def test_the_bar_shows_values_and_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with RunLog(tmp_path, total_steps=20, progress=True) as log:
        log.progress(11, {"loss": 2.5})
        log.progress(12, {"loss": 1.25, "images_per_second": 64.0})
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "12/20" in shown.err
    assert "loss 1.25  images/s 64" in shown.err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (360000, "100:00:00")],
)
def test_clock(seconds: float, text: str) -> None:
    assert run_log._clock(seconds) == text
