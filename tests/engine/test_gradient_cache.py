"""Parts of a batch give the gradient of the whole, although its loss couples all examples."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from owlkit.engine import (
    ContrastiveTask,
    Objective,
    SimclrHead,
    Trainer,
    clip_objective,
    siglip_objective,
    triplet_objective,
)
from owlkit.errors import ConfigError
from owlkit.losses import nt_xent_loss
from owlkit.structures import PairBatch
from tests.engine.toy import make_dual_encoder, make_trainer, pair_batch

PARTS, SIZE = 8, 256
OBJECTIVES = {
    "clip": clip_objective(),
    "siglip": siglip_objective(chunk_size=100),
    "triplet": triplet_objective(mining="all"),
}

Gradients = dict[str, Tensor]


def make_task(folder: Path | str, objective: Objective, **options: Any) -> ContrastiveTask:
    dropout = options.pop("dropout", 0.0)
    model = make_dual_encoder(folder, dropout=dropout, logit_bias=objective.biased)
    return ContrastiveTask(model, objective, **options)


def trainer_gradients(
    task: nn.Module, batch: PairBatch, folder: Path, *, parts: int, **options: Any
) -> Gradients:
    """What the optimiser finds in its first step."""
    found: Gradients = {}
    train = {"steps": 1, "batch_size": options.pop("batch_size", len(batch)), "accumulation": parts}
    optim = {"clip": "none", "warmup_steps": 0}
    trainer = make_trainer(
        folder, task=task, batches=lambda start: iter([batch]), optim=optim, train=train, **options
    )
    _record_gradients(trainer, task, found)
    trainer.fit()
    return found


def _record_gradients(trainer: Trainer, task: nn.Module, found: Gradients) -> None:
    def step() -> None:
        for name, parameter in task.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                found[name] = parameter.grad.clone()

    trainer.optimizer.step = step


def normalised(task: ContrastiveTask, images: Tensor) -> Tensor:
    scaled: Tensor = task.pixels(images)
    return scaled


def one_graph_gradients(task: ContrastiveTask, batch: PairBatch, *, seed: int = 0) -> Gradients:
    """All parts in one graph; the trainer begins with seed 0."""
    task.train()
    torch.manual_seed(seed)
    model, size = task.model, len(batch) // PARTS
    images, texts, views = [], [], []
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        keep = None
        if task.patch_dropout:
            keep = torch.rand(size, 16).topk(8).indices
        images.append(model.encode_images(normalised(task, part.images), keep=keep))
        texts.append(model.encode_strings(part.texts))
        if task.simclr is not None:
            pixels = normalised(task, part.views.flatten(0, 1))
            projected = task.simclr(model.pool_images(pixels))
            views.append(nn.functional.normalize(projected, dim=1).view(size, 2, -1))
    loss = task.objective(torch.cat(images), torch.cat(texts), model, batch.identities)
    if task.simclr is not None:
        first, second = torch.cat(views).unbind(1)
        loss = loss + task.simclr_weight * nt_xent_loss(first, second)
    weights = dict(task.named_parameters())
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


def assert_same(found: Gradients, expected: Gradients) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # Small entries are sums of large ones, and as exact as those.
        close = 1e-5 * max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=close, msg=name)


def distance(found: Gradients, expected: Gradients) -> float:
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_eight_parts_are_the_whole_batch_with_dropout(
    tokenizer_folder: Path, tmp_path: Path, name: str
) -> None:
    """Blocks, attention weights and patches are dropped: each example keeps its own draw."""
    options: dict[str, Any] = {"dropout": 0.3, "patch_dropout": 0.5, "accumulation": PARTS}
    task = make_task(tokenizer_folder, OBJECTIVES[name], **options)
    batch = pair_batch(SIZE)
    expected = one_graph_gradients(task, batch)
    assert_same(trainer_gradients(task, batch, tmp_path, parts=PARTS), expected)
    scalars = {"logit_scale", "logit_bias"} if name == "siglip" else {"logit_scale"}
    assert all(expected[f"model.{scalar}"].abs() > 1e-4 for scalar in scalars)
    # The draw matters: another one is farther away than the tolerance.
    assert distance(one_graph_gradients(task, batch, seed=1), expected) > 1e-3


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_eight_parts_are_one_pass_without_dropout(
    tokenizer_folder: Path, tmp_path: Path, name: str
) -> None:
    found = []
    for parts in (1, PARTS):
        task = make_task(tokenizer_folder, OBJECTIVES[name], accumulation=parts)
        if name == "triplet":
            task.model.logit_scale.requires_grad_(False)
        folder = tmp_path / str(parts)
        found.append(trainer_gradients(task, pair_batch(SIZE), folder, parts=parts))
    assert_same(found[1], found[0])


def test_losses_of_the_parts_alone_are_something_else(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    """Naive accumulation, which the trainer therefore refuses: see below."""
    task = make_task(tokenizer_folder, OBJECTIVES["clip"])
    batch = pair_batch(SIZE)
    expected = trainer_gradients(task, batch, tmp_path, parts=1)
    task.zero_grad()
    for start in range(0, SIZE, SIZE // PARTS):
        (task(batch[start : start + SIZE // PARTS])["loss"] / PARTS).backward()
    naive = {name: weight.grad for name, weight in task.named_parameters()}
    assert distance(naive, expected) > 1e-2


def test_simclr_joins_with_statistics_of_each_part(tokenizer_folder: Path, tmp_path: Path) -> None:
    """Gradients of the function in parts; running statistics as if parts had passed once."""
    tasks = []
    for _ in range(2):
        torch.manual_seed(3)
        head = SimclrHead(32, hidden_width=24, width=8)
        tasks.append(
            make_task(
                tokenizer_folder, OBJECTIVES["clip"], simclr=head, simclr_weight=0.5,
                accumulation=PARTS, dropout=0.3,
            )
        )  # fmt: skip
    batch = pair_batch(64, views=True)
    expected = one_graph_gradients(tasks[0], batch)
    assert_same(trainer_gradients(tasks[1], batch, tmp_path, parts=PARTS), expected)
    norms = [task.simclr.layers[1] for task in tasks]
    assert norms[1].num_batches_tracked == PARTS
    torch.testing.assert_close(norms[1].running_mean, norms[0].running_mean)
    torch.testing.assert_close(norms[1].running_var, norms[0].running_var)
    assert norms[1].track_running_stats


def test_each_part_reports_the_whole(tokenizer_folder: Path) -> None:
    task = make_task(tokenizer_folder, OBJECTIVES["siglip"], accumulation=4)
    batch = pair_batch(32)
    expected = task(batch)
    prepared = task.prepare(batch)
    for start in range(0, 32, 8):
        terms = task(prepared[start : start + 8])
        assert list(terms) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(terms[name], value, rtol=1e-5, atol=1e-6)


def test_the_random_state_ends_where_the_first_pass_left_it(tokenizer_folder: Path) -> None:
    """A run that goes on from a checkpoint meets the same numbers."""
    task = make_task(tokenizer_folder, OBJECTIVES["clip"], accumulation=2, patch_dropout=0.5)
    torch.manual_seed(0)
    prepared = task.prepare(pair_batch(8))
    after = torch.get_rng_state()
    for start in (0, 4):
        task(prepared[start : start + 4])
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize(
    ("optim", "parts", "message"),
    [({}, 2, "expected 1, the number of parts"), ({"clip": "per_example"}, 1, "does not go with")],
)
def test_parts_behind_the_back_of_the_task_are_refused(
    tokenizer_folder: Path, tmp_path: Path, optim: dict[str, Any], parts: int, message: str
) -> None:
    task = make_task(tokenizer_folder, OBJECTIVES["clip"])
    with pytest.raises(ConfigError, match=message):
        make_trainer(tmp_path, task=task, optim=optim, train={"accumulation": parts})
