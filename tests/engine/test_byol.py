"""BYOL against a slow and obvious version, and what happens without its asymmetry."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from owlkit.engine.byol import ByolTask
from owlkit.engine.collapse import CollapseWatch
from owlkit.errors import DatasetError, TrainingError
from owlkit.models.distillation_heads import ProjectionHead
from owlkit.structures import CropBatch
from tests.engine.test_distillation import endless
from tests.engine.toy import make_trainer
from tests.engine.toy_crops import NEVER, crop_batch, make_backbone, make_tower


def make_task(
    *, projector: nn.Module | None = None, predictor: nn.Module | None = None, after: int = NEVER
) -> ByolTask:
    torch.manual_seed(0)
    projector = projector or ProjectionHead(16, 16, 8)
    target = nn.ModuleDict({"vision": make_tower(seed=1), "projector": deepcopy(projector)})
    return ByolTask(
        make_backbone(make_tower()),
        projector,
        predictor or ProjectionHead(8, 16, 8),
        target,
        momentum=lambda step: min(0.5 + 0.1 * step, 0.9),
        collapse=CollapseWatch(None, after=after),
    ).train()


def squared_distance(first: Tensor, second: Tensor) -> Tensor:
    difference = first / first.norm(dim=1, keepdim=True) - second / second.norm(dim=1, keepdim=True)
    return difference.square().sum(dim=1).mean()


def test_two_steps_are_those_of_the_slow_version() -> None:
    """Each view passes alone through batch norms, whose running statistics agree, too."""
    task = make_task()
    vision, projector = deepcopy(task.model.vision), deepcopy(task.projector)
    slow_vision, slow_projector = deepcopy(vision), deepcopy(projector)
    predictor = deepcopy(task.predictor)
    online = nn.ModuleList([vision, projector, predictor])
    mean, std = torch.tensor([task.model.preprocessing.mean, task.model.preprocessing.std])
    for step in range(2):
        batch = crop_batch(6, step=step)
        one, two = (
            (view / 255 - mean[:, None, None]) / std[:, None, None]
            for view in batch.global_crops.unbind(1)
        )
        guesses = [predictor(projector(vision(view).pooled)) for view in (one, two)]
        with torch.no_grad():
            targets = [slow_projector(slow_vision(view).pooled) for view in (one, two)]
        loss = squared_distance(guesses[0], targets[1]) + squared_distance(guesses[1], targets[0])
        online.zero_grad()
        loss.backward()

        task.begin_step(step)
        terms = task(batch)
        torch.testing.assert_close(terms["loss"], loss, rtol=1e-5, atol=1e-6)
        terms["loss"].backward()
        with torch.no_grad():
            for weight in [*online.parameters(), *task.parameters()]:
                if weight.grad is not None:
                    weight -= 0.1 * weight.grad
                    weight.grad = None
            momentum = 0.5 + 0.1 * step
            for fast, slow in ((vision, slow_vision), (projector, slow_projector)):
                for weight, follower in zip(fast.parameters(), slow.parameters(), strict=True):
                    follower.copy_(momentum * follower + (1 - momentum) * weight)
        task.finish_step()
    expected = {**slow_vision.state_dict(prefix="vision."), **slow_projector.state_dict()}
    found = {**task.target["vision"].state_dict(prefix="vision.")}
    found |= task.target["projector"].state_dict()
    # Batch norms of six examples amplify rounding.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert terms["byol"] == terms["loss"]
    assert terms.keys() == {"loss", "byol", "projection_std", "feature_std", "feature_rank"}
    learning = {name for name, weight in task.named_parameters() if weight.requires_grad}
    assert {name.partition(".")[0] for name in learning} == {"model", "projector", "predictor"}


def test_it_collapses_without_predictor_and_batch_norm(tmp_path: Path) -> None:
    """Constant vectors please the loss best; what keeps BYOL from them is left out here.

    The two views are of different images, so that there is nothing else to be learned.
    """
    train: dict[str, Any] = {"steps": 80, "log_every": 10, "eval_every": 80, "save_every": 80}
    optim = {"lr": 0.01, "warmup_steps": 5, "weight_decay": 0.0}
    task = make_task(projector=nn.Linear(16, 8), predictor=nn.Identity(), after=30)
    trainer = make_trainer(tmp_path, task=task, optim=optim, train=train, batches=mixed_views)
    with pytest.raises(TrainingError, match="collapsed, its outputs are the same for all images"):
        trainer.fit()


def mixed_views(start: int) -> Any:
    for batch in endless(start, local_crops=0):
        first, second = batch.global_crops.unbind(1)
        yield replace(batch, global_crops=torch.stack([first, second.roll(1, 0)], dim=1))


def test_two_views_are_needed() -> None:
    batch = crop_batch(4)
    with pytest.raises(DatasetError, match="expected 2 global crops of each image, found 1"):
        make_task()(CropBatch(batch.global_crops[:, :1], batch.sources))
