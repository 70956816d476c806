"""Two processes on the CPU learn what one does, and agree when something goes wrong."""

import json
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from owlkit.encoders import VisionTower
from owlkit.engine import SimclrHead
from owlkit.engine.accelerator import prepare_task
from owlkit.engine.sync_batch_norm import GpuSyncBatchNorm, PlainSyncBatchNorm
from tests.engine.test_gradient_cache import (
    OBJECTIVES,
    assert_same,
    make_task,
    trainer_gradients,
)
from tests.engine.toy import load_toy, make_trainer, pair_batch, run_two_processes

PROGRAM = """
import json, sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from owlkit.config import TrainSection
from owlkit.engine import create_accelerator
from owlkit.errors import TrainingError
from tests.engine.test_gradient_cache import OBJECTIVES, make_task, trainer_gradients
from tests.engine.toy import ToyLog, ToyTask, make_trainer, pair_batch, toy_batches

folder = Path(sys.argv[1])
accelerator = create_accelerator(TrainSection(batch_size=8), cpu=True)
rank = accelerator.process_index


def evaluate(model, step):
    # Only the first process measures; the others take over what it found.
    return {"AP": 1.0 / step} if rank == 0 else {}


def run(name, settings):
    def shares(start):
        for step, batch in enumerate(toy_batches(start), start):
            share = batch[4 * rank : 4 * rank + 4]
            if settings.get("poison") == step and rank == 1:
                share.x[2] = float("nan")
            yield replace(share, corrupt=("bad.jpg",) if rank == step == 1 else ())

    # Weights differ until they are joined; those of the first process count.
    task, log = ToyTask(seed=rank), ToyLog()
    trainer = make_trainer(
        folder / name, task=task, batches=shares, evaluate=evaluate, accelerator=accelerator,
        log=log, optim=settings["optim"], train=settings["train"],
    )
    try:
        summary = trainer.fit()
    except TrainingError as error:
        return {"error": str(error)}
    loss = {step: values["loss"] for step, values in log.of("train").items()}
    state = summary.state
    return {"ending": summary.ending, "corrupt": state.corrupt, "best": state.best,
            "images_read": state.images_read,
            "examples": state.examples, "loss": loss}


found = {name: run(name, settings) for name, settings in json.loads(sys.argv[2]).items()}
group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
found["hours"] = group.options._timeout.total_seconds() / 3600
(folder / f"rank{rank}.json").write_text(json.dumps(found))
share = pair_batch(64)[32 * rank : 32 * rank + 32]
for name in ("clip", "siglip"):
    task = make_task(sys.argv[3], OBJECTIVES[name], accumulation=4)
    gradients = trainer_gradients(
        task, share, folder / name, parts=4, batch_size=64, accelerator=accelerator
    )
    save_file(gradients, folder / f"{name}-{rank}.safetensors")
accelerator.end_training()
"""

TRAIN = {"accumulation": 2, "ema_decay": 0.5, "steps": 6}
RUNS: dict[str, dict[str, Any]] = {
    "global": {"optim": {"clip": "global", "clip_norm": 20.0}, "train": TRAIN},
    "per_example": {"optim": {"clip": "per_example", "clip_norm": 20.0}, "train": TRAIN},
    "poisoned": {"optim": {}, "train": {"steps": 4}, "poison": 2},
}


@pytest.fixture(scope="module")
def two_processes(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path
) -> tuple[Path, list[dict[str, Any]]]:
    """All runs in one pair of processes, since these take seconds to start."""
    folder = tmp_path_factory.mktemp("two")
    run_two_processes(PROGRAM, str(folder), json.dumps(RUNS), str(tokenizer_folder))
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("clip", ["global", "per_example"])
def test_two_processes_learn_what_one_does(
    two_processes: tuple[Path, list[dict[str, Any]]], tmp_path: Path, clip: str
) -> None:
    folder, ranks = two_processes
    make_trainer(tmp_path, optim=RUNS[clip]["optim"], train=TRAIN).fit()
    for rank in ranks:
        assert rank[clip]["ending"] == "finished"
        counts = [rank[clip][name] for name in ("examples", "images_read", "corrupt")]
        assert counts == [48, 48, 1]
        assert rank[clip]["best"] == 0.25
    assert ranks[0][clip]["loss"] == ranks[1][clip]["loss"]
    expected, found = load_toy(tmp_path / "last"), load_toy(folder / clip / "last")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_all_processes_stop_at_what_one_of_them_meets(
    two_processes: tuple[Path, list[dict[str, Any]]],
) -> None:
    """If the other went on, it would wait for its peer for ever."""
    first, second = (rank["poisoned"]["error"] for rank in two_processes[1])
    assert first == second
    assert "step 2" in first
    assert "image-2-4; image-2-5; image-2-6; image-2-7" in first


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_parts_in_two_processes_are_one_batch(
    two_processes: tuple[Path, list[dict[str, Any]]],
    tokenizer_folder: Path,
    tmp_path: Path,
    name: str,
) -> None:
    """Four parts in each process compare all pairs of both: temperature and bias, too."""
    task = make_task(tokenizer_folder, OBJECTIVES[name])
    expected = trainer_gradients(task, pair_batch(64), tmp_path, parts=1)
    for rank in range(2):
        assert_same(load_file(two_processes[0] / f"{name}-{rank}.safetensors"), expected)


def test_others_wait_for_hours_while_the_first_process_measures(
    two_processes: tuple[Path, list[dict[str, Any]]],
) -> None:
    """Torch's own patience ends within half an hour, and the run with it."""
    assert [rank["hours"] for rank in two_processes[1]] == [6, 6]


class Towers(nn.Module):
    """A learning ResNet, a frozen one, one whose norms end in an activation, and SimCLR's head."""

    def __init__(self) -> None:
        super().__init__()
        self.learning = VisionTower("resnet18", image_size=32)
        self.frozen = VisionTower("resnet18", image_size=32).requires_grad_(False).eval()
        self.active = VisionTower("mobilenetv3_small_050", image_size=32)
        self.simclr = SimclrHead(8, hidden_width=8, width=8)


@pytest.mark.parametrize(
    ("processes", "device", "synchronised"),
    [
        (2, "cuda", {"learning", "active", "simclr"}),
        (2, "cpu", {"learning", "active", "simclr"}),
        (1, "cuda", set()),
    ],
)
def test_batch_norms_that_learn_are_synchronised(
    processes: int, device: str, synchronised: set[str]
) -> None:
    """On one process they compute what they did, so nothing but the statistics can have changed."""
    accelerator: Any = SimpleNamespace(
        num_processes=processes, device=torch.device(device), prepare_model=lambda task: task
    )
    task = Towers()
    before, weights = deepcopy(task), dict(task.named_parameters())
    prepare_task(task, accelerator)
    kinds = {
        name: isinstance(module, GpuSyncBatchNorm if device == "cuda" else PlainSyncBatchNorm)
        for name, module in task.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }
    assert len(kinds) == 20 + 20 + 34 + 2
    for name, kind in kinds.items():
        assert kind is (name.partition(".")[0] in synchronised), name
    assert list(task.state_dict()) == list(before.state_dict())
    assert all(weight is weights[name] for name, weight in task.named_parameters())
    images, vectors = torch.randn(2, 3, 32, 32), torch.randn(4, 8)
    for tower in ("learning", "frozen", "active"):
        expected = before.get_submodule(tower)(images).pooled
        assert torch.equal(task.get_submodule(tower)(images).pooled, expected)
    assert torch.equal(task.simclr(vectors), before.simclr(vectors))
    for name, value in deepcopy(task).eval().state_dict().items():
        assert torch.equal(value, before.state_dict()[name]), name
