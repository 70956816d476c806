"""Clipped gradients against a naive loop and against torch's per-sample gradients."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from owlkit.config import OptimSection
from owlkit.engine.clipping import Clipping, make_clipping
from owlkit.errors import ConfigError
from tests.engine.toy import ToyBatch, ToyTask, make_trainer, toy_batch

LIMIT = 20.0


def run(task: ToyTask, batch: ToyBatch, optim: OptimSection, *, accumulation: int = 1) -> Tensor:
    """What the loop does with a batch; returns the norm."""
    accelerator = Accelerator(cpu=True)
    clipping: Clipping = make_clipping(
        optim, task=task, accelerator=accelerator, accumulation=accumulation
    )
    parts = clipping.split(batch)
    for part in parts:
        with clipping.communication(last=part is parts[-1]):
            (task(part)["loss"] * (len(part) / len(batch))).backward()
        clipping.collect()
    return clipping.finish()


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def per_sample_gradients(task: ToyTask, batch: ToyBatch) -> dict[str, Tensor]:
    """Gradient of each example alone [B, ...], by torch.func."""
    parameters = {name: p.detach() for name, p in task.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        example = ToyBatch(x[None], y[None], ("",))
        value: Tensor = functional_call(task, weights, (example,))["loss"]
        return value

    found: dict[str, Tensor] = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, batch.x, batch.y)
    return found


def test_per_example_clipping_equals_per_sample_gradients() -> None:
    task, batch = ToyTask(), toy_batch(0)
    samples = per_sample_gradients(task, batch)
    norms = torch.stack([s.flatten(1).square().sum(dim=1) for s in samples.values()]).sum(0).sqrt()
    assert (norms > LIMIT).any()
    assert (norms < LIMIT).any()
    scale = (LIMIT / norms).clamp(max=1)
    norm = run(task, batch, OptimSection(clip="per_example", clip_norm=LIMIT))
    for name, gradient in gradients(task).items():
        expected = torch.einsum("b,b...->...", scale, samples[name]) / len(batch)
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm, norms.mean())


def test_a_second_batch_starts_from_nothing() -> None:
    task, optim = ToyTask(), OptimSection(clip="per_example", clip_norm=LIMIT)
    clipping = make_clipping(optim, task=task, accelerator=Accelerator(cpu=True), accumulation=1)
    results = []
    for _ in range(2):
        task.zero_grad()
        for part in clipping.split(toy_batch(0, size=3)):
            (task(part)["loss"] / 3).backward()
            clipping.collect()
        clipping.finish()
        results.append({name: g.clone() for name, g in gradients(task).items()})
    for name in results[0]:
        assert torch.equal(results[0][name], results[1][name])


@pytest.mark.parametrize("accumulation", [1, 3, 8, 20])
def test_global_clipping_does_not_depend_on_the_parts(accumulation: int) -> None:
    task, whole, batch = ToyTask(), ToyTask(), toy_batch(0)
    norm = run(task, batch, OptimSection(clip_norm=LIMIT), accumulation=accumulation)
    whole(batch)["loss"].backward()
    expected_norm = nn.utils.clip_grad_norm_(whole.parameters(), LIMIT)
    assert expected_norm > LIMIT
    torch.testing.assert_close(norm, expected_norm)
    for name, gradient in gradients(task).items():
        torch.testing.assert_close(gradient, gradients(whole)[name])


def test_without_clipping_gradients_stay_and_the_norm_is_told() -> None:
    task, whole, batch = ToyTask(), ToyTask(), toy_batch(0)
    norm = run(task, batch, OptimSection(clip="none"))
    whole(batch)["loss"].backward()
    for name, gradient in gradients(task).items():
        assert torch.equal(gradient, gradients(whole)[name])
    torch.testing.assert_close(norm, nn.utils.get_total_norm(gradients(whole).values()))


@pytest.mark.parametrize(
    ("size", "parts", "sizes"),
    [
        pytest.param(8, 3, [2, 3, 3], id="sizes differ by one at most"),
        pytest.param(2, 4, [1, 1], id="no part is empty"),
    ],
)
def test_parts(size: int, parts: int, sizes: list[int]) -> None:
    accelerator = Accelerator(cpu=True)
    clipping = make_clipping(
        OptimSection(), task=ToyTask(), accelerator=accelerator, accumulation=parts
    )
    batch = toy_batch(0, size=size)
    found = clipping.split(batch)
    assert [len(part) for part in found] == sizes
    assert sum((part.sources for part in found), ()) == batch.sources


def test_weights_without_a_gradient_are_left_alone() -> None:
    """DINOv2's mask token, for example, when no patch is masked."""
    task = ToyTask()
    task.model.unused = nn.Linear(2, 2)
    run(task, toy_batch(0), OptimSection(clip="per_example"))
    assert task.model.unused.weight.grad is None
    assert task.model.head.weight.grad is not None


def test_a_gradient_of_zero_stays_zero() -> None:
    """0 / 0 would make it NaN."""
    task = ToyTask()
    for parameter in task.parameters():
        parameter.data.zero_()
    batch = toy_batch(0, size=2)
    batch.y.zero_()
    norm = run(task, batch, OptimSection(clip="per_example"))
    assert norm == 0
    assert all((gradient == 0).all() for gradient in gradients(task).values())


def test_float16_cannot_be_clipped_by_example(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(Accelerator, "mixed_precision", "fp16")
    with pytest.raises(ConfigError, match="per_example does not go with"):
        make_clipping(
            OptimSection(clip="per_example"),
            task=ToyTask(),
            accelerator=accelerator,
            accumulation=1,
        )


def test_a_run_clips_by_example_whatever_the_accumulation(tmp_path: Path) -> None:
    results = []
    for accumulation in (1, 4):
        task = ToyTask()
        optim = {"clip": "per_example", "clip_norm": LIMIT}
        train = {"accumulation": accumulation, "steps": 4}
        make_trainer(tmp_path, task=task, optim=optim, train=train).fit()
        results.append([parameter.detach() for parameter in task.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_batch_norms_do_not_go_with_examples_one_by_one(tmp_path: Path) -> None:
    """The statistics of one example are only its own; a frozen tower keeps its old ones."""
    task = ToyTask()
    task.model.vision.append(nn.BatchNorm1d(8))
    with pytest.raises(ConfigError, match=r"model\.vision\.3 and 0 more.*use optim\.clip global"):
        make_trainer(tmp_path, task=task, optim={"clip": "per_example"})
    make_trainer(tmp_path, task=task, optim={"clip": "per_example", "freeze": ("image",)})


def test_each_weight_is_clipped_by_its_own_norm() -> None:
    """DINO's loop over parameters; the norm that is told is that of all of them, before."""
    task, whole, batch = ToyTask(), ToyTask(), toy_batch(0)
    task.model.unused = nn.Linear(2, 2)
    whole(batch)["loss"].backward()
    by_hand = gradients(whole)
    norms = {name: gradient.norm() for name, gradient in by_hand.items()}
    assert min(norms.values()) < LIMIT < max(norms.values())
    norm = run(task, batch, OptimSection(clip="per_parameter", clip_norm=LIMIT), accumulation=2)
    torch.testing.assert_close(norm, nn.utils.get_total_norm(by_hand.values()))
    found = gradients(task)
    assert found.keys() == by_hand.keys()
    for name, gradient in by_hand.items():
        coefficient = LIMIT / (norms[name] + 1e-6)
        expected = gradient * coefficient if coefficient < 1 else gradient
        torch.testing.assert_close(found[name], expected)
