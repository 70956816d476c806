"""From nothing to a detector by the commands alone; and a run that is interrupted on the way."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from owlkit import Predictor
from owlkit.cli import main
from owlkit.engine import trainer
from tests.small_run import CONFIGS, SmallData, lines_of


def test_pretrain_train_evaluate_detect(
    data: SmallData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", *data.pretraining(tmp_path, "train.steps=6")]) == 0
    clip = tmp_path / "clip" / "best"
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("finished after step 6, best ")
    assert said[1:] == [str(clip)]

    config = str(CONFIGS / "quickstart" / "detector.yaml")
    start = [
        f"model.init_from={clip}",
        "model.vision.image_size=32",
        "model.text.context_length=32",
    ]
    words = data.overrides(tmp_path, *start, "train.tensorboard=true")
    assert main(["train", config, *words]) == 0
    run = tmp_path / "detector"
    summary, best = capsys.readouterr().out.splitlines()
    evaluations = lines_of(run, "eval")
    assert list(evaluations) == [2, 4]
    assert best == str(run / "best")
    step = int(summary.rpartition(" ")[2])
    assert f"best {evaluations[step]['AP']:.4f} at step {step}" in summary
    made = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {"config.yaml", "metrics.jsonl", "plots/loss.png", "plots/ap.png"} <= made
    assert {"last/training/state.json", "samples/step_000002/1.jpg"} <= made
    assert list((run / "tensorboard").iterdir())

    truth = data.annotations / "instances_val.json"
    words = ["--annotations", str(truth), "--images", str(data.scenes), "--templates", "none"]
    words += ["--split", str(data.annotations / "split.json"), "--out", str(tmp_path / "measured")]
    assert main(["evaluate", best, *words, "--device", "cpu"]) == 0
    metrics = json.loads((tmp_path / "measured" / "metrics.json").read_text())
    for name in ("AP", "AP_base", "AP_novel", "AR100"):
        assert metrics[name] == pytest.approx(evaluations[step][name], abs=1e-6), name

    predictor = Predictor.from_pretrained(best, device="cpu")
    picture = data.scenes / "val" / "000000.jpg"
    found = predictor.detect(str(picture), ["red circle", "blue square"], threshold=0.0)
    assert len(found) == 2 * 16
    assert np.isfinite(found.boxes).all()


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Asks the training to stop while it works on a step, counted from 1; it stops one later."""
    real, calls = trainer.report_step, []

    def report_step(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == step:
            signal.raise_signal(number)
        return real(*arguments, **options)

    monkeypatch.setattr(trainer, "report_step", report_step)


# Everything that draws random numbers, and everything that has a memory.
LIVELY = (
    *("model.vision.drop_path=0.2", "model.text.drop_path=0.2", "train.ema_decay=0.5"),
    *("data.augment.mosaic=[0.5, 0.5]", "data.augment.colour_jitter=0.3", "train.steps=6"),
    *("optim.lr=1e-2", "data.queries.templates=ensemble7", "name=run"),
)


@pytest.fixture(scope="module")
def straight(data: SmallData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that nothing interrupts."""
    AcceleratorState._reset_state(reset_partial_state=True)
    runs = tmp_path_factory.mktemp("straight")
    assert main(["train", *data.training(runs, *data.random_towers, *LIVELY)]) == 0
    return runs / "run"


@pytest.mark.parametrize(
    ("workers", "number", "status"), [(0, signal.SIGINT, 130), (2, signal.SIGTERM, 143)]
)
def test_an_interrupted_run_ends_as_if_nothing_had_happened(
    data: SmallData,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    workers: int,
    number: signal.Signals,
    status: int,
) -> None:
    overrides = [*data.random_towers, *LIVELY, f"data.workers={workers}"]
    words = ["train", *data.training(tmp_path, *overrides)]
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, number)
        assert main(words) == status, "as shells report the signal"
    said = capsys.readouterr().out
    assert "interrupted after step 3" in said
    assert "go on with resume=true" in said
    assert max(lines_of(run, "train")) == 3
    assert main([*words, "resume=true"]) == 0
    assert f"{run / 'best'}\n" in capsys.readouterr().out
    for kind, names in (("train", ("loss", "gradient_norm")), ("eval", ("AP", "AR100"))):
        expected, found = lines_of(straight, kind), lines_of(run, kind)
        assert list(found) == list(expected)
        for step, line in expected.items():
            assert [found[step][name] for name in names] == [line[name] for name in names]
    for place in ("best", "last"):
        (file,) = [path.name for path in (run / place).glob("*.safetensors")]
        weights, wanted = (load_file(folder / place / file) for folder in (run, straight))
        assert weights.keys() == wanted.keys()
        assert all(torch.equal(weights[name], value) for name, value in wanted.items())
