"""Two processes distil what one does, with centers and balance over both."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.engine.toy import make_trainer, run_two_processes
from tests.engine.toy_crops import crop_batch, make_task, weights_of

PROGRAM = """
import json, sys
from pathlib import Path

from safetensors.torch import save_file

from owlkit.config import TrainSection
from owlkit.engine import create_accelerator
from tests.engine.test_distillation_distributed import distil

folder = Path(sys.argv[1])
accelerator = create_accelerator(TrainSection(batch_size=8), cpu=True)
for name, settings in json.loads(sys.argv[2]).items():
    weights = distil(folder / name, accelerator=accelerator, **settings)
    save_file(weights, folder / f"{name}-{accelerator.process_index}.safetensors")
accelerator.end_training()
"""

RUNS: dict[str, dict[str, Any]] = {
    "centering": {"patches": True, "parts": 2, "frozen_steps": 1},
    "sinkhorn_knopp": {"patches": True, "centering": "sinkhorn_knopp"},
    "dino": {},
}


def distil(
    folder: Path, *, accelerator: Any = None, parts: int = 1, **options: Any
) -> dict[str, Tensor]:
    """All weights and centers after three steps; other processes begin with other weights."""
    rank, share = (accelerator.process_index, 4) if accelerator else (0, 8)

    def batches(start: int) -> Any:
        for step in range(start, 3):
            whole = crop_batch(8, step=step, masks="patches" in options)
            yield whole[rank * share : (rank + 1) * share]

    task = make_task(seed=10 * rank, accumulation=parts, **options)
    make_trainer(
        folder,
        task=task,
        batches=batches,
        optim={"optimizer": "sgd", "betas": (0.0, 0.9), "clip": "none", "warmup_steps": 0},
        train={"steps": 3, "accumulation": parts},
        accelerator=accelerator,
    ).fit()
    return weights_of(task)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    run_two_processes(PROGRAM, str(folder), json.dumps(RUNS))
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_distil_what_one_does(two_processes: Path, tmp_path: Path, name: str) -> None:
    settings = {**RUNS[name], "parts": 1}
    expected = distil(tmp_path, **settings)
    for rank in range(2):
        found = load_file(two_processes / f"{name}-{rank}.safetensors")
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5, msg=key)
    start = make_task(**{key: value for key, value in settings.items() if key != "parts"})
    moved = start.teacher.state_dict()["vision.model.cls_token"]
    assert (expected["teacher.vision.model.cls_token"] - moved).abs().max() > 1e-4
