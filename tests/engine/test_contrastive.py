"""The contrastive task on tiny towers: what it feeds, what it returns, what it leaves alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from owlkit.engine import (
    ContrastiveTask,
    SimclrHead,
    clip_objective,
    siglip_objective,
    triplet_objective,
)
from owlkit.errors import ConfigError, DatasetError
from owlkit.losses import clip_loss, nt_xent_loss, siglip_loss, triplet_loss
from owlkit.structures import PairBatch
from tests.engine.toy import make_dual_encoder, make_trainer, pair_batch
from tests.losses.test_memory import MemoryMeter


def pixels(task: ContrastiveTask, images: Tensor) -> Tensor:
    """As the predictor prepares images, one by one."""
    prepared = [task.model.preprocessing(image.permute(1, 2, 0).numpy())[0] for image in images]
    return torch.stack([torch.from_numpy(image) for image in prepared])


@pytest.mark.parametrize("name", ["clip", "siglip", "triplet"])
def test_the_loss_is_that_of_the_model_called_by_hand(tokenizer_folder: Path, name: str) -> None:
    model = make_dual_encoder(tokenizer_folder, logit_bias=name == "siglip")
    objectives = {
        "clip": clip_objective(),
        "siglip": siglip_objective(chunk_size=3),
        "triplet": triplet_objective(margin=0.3, mining="semi_hard"),
    }
    task, batch = ContrastiveTask(model, objectives[name]), pair_batch(7)
    images = model.encode_images(pixels(task, batch.images))
    texts, ids = model.encode_strings(batch.texts), batch.identities
    scale = model.logit_scale.exp()
    if name == "clip":
        expected = clip_loss(images, texts, scale, identities=ids)
    elif name == "siglip":
        expected = siglip_loss(images, texts, scale, model.logit_bias, identities=ids)
    else:
        expected = triplet_loss(images, texts, margin=0.3, mining="semi_hard", identities=ids)
    terms = task(batch)
    torch.testing.assert_close(terms["loss"], expected)
    assert torch.equal(terms["loss"], terms[name])
    assert ("logit_scale" in terms) == (name != "triplet")
    assert ("logit_bias" in terms) == (name == "siglip")
    channels_last = batch.images.to(memory_format=torch.channels_last)
    assert torch.equal(task(replace(batch, images=channels_last))["loss"], terms["loss"])


def test_an_equal_caption_is_a_hit(tokenizer_folder: Path) -> None:
    """Rows 3 and 4 share a caption, hence an embedding: whichever comes first is right for both."""
    task = ContrastiveTask(make_dual_encoder(tokenizer_folder), clip_objective())
    batch = pair_batch(5)
    texts = task.model.encode_strings(batch.texts).detach()
    task.model.encode_strings = lambda _: texts
    task.model.project_pooled = lambda _: texts[[0, 0, 2, 3, 4]]
    assert task(batch)["accuracy"] == pytest.approx(0.8)


def test_a_step_makes_no_table_of_all_pairs(tokenizer_folder: Path) -> None:
    """Neither does what is only logged; and chunks find the nearest texts that the table has."""
    model = make_dual_encoder(tokenizer_folder, logit_bias=True)
    task, batch = ContrastiveTask(model, siglip_objective(chunk_size=50)), pair_batch(700)
    generator = torch.Generator().manual_seed(0)
    texts = nn.functional.normalize(torch.randn(700, 16, generator=generator), dim=1)
    images = texts + 0.3 * torch.randn(700, 16, generator=generator)
    images = nn.functional.normalize(images, dim=1).requires_grad_()
    task.model.encode_strings = lambda _: texts
    task.model.project_pooled = lambda _: images
    with MemoryMeter() as meter:
        terms = task(replace(batch, images=None, pooled=texts))
        terms["loss"].backward()
    assert meter.largest <= 256 * 700
    nearest = (images @ texts.mT).argmax(dim=1)
    expected = (batch.identities[nearest] == batch.identities).float().mean()
    assert 0.3 < expected < 0.9
    assert terms["accuracy"] == expected


def test_slip_adds_the_loss_of_two_views(tokenizer_folder: Path) -> None:
    model = make_dual_encoder(tokenizer_folder)
    torch.manual_seed(0)
    head = SimclrHead(32, hidden_width=16, width=8, temperature=0.5)
    task = ContrastiveTask(model, clip_objective(), simclr=head, simclr_weight=0.25)
    batch = pair_batch(6, views=True)
    views = torch.stack([batch.views[:, 0], batch.views[:, 1]], dim=1).flatten(0, 1)
    projected = head(model.vision(pixels(task, views)).pooled)
    first, second = nn.functional.normalize(projected, dim=1).view(6, 2, 8).unbind(1)
    simclr = nt_xent_loss(first, second, temperature=0.5)
    terms = task(batch)
    # Batch norms of narrow layers amplify the rounding of two ways to normalise colours.
    torch.testing.assert_close(terms["simclr"], simclr, rtol=1e-4, atol=0)
    torch.testing.assert_close(terms["loss"], terms["clip"] + 0.25 * terms["simclr"])
    assert not any("simclr" in name for name in model.state_dict())
    with pytest.raises(DatasetError, match="two views"):
        task(replace(batch, views=None))


def test_pooled_vectors_stand_for_images(tokenizer_folder: Path) -> None:
    model = make_dual_encoder(tokenizer_folder)
    task, batch = ContrastiveTask(model, clip_objective()), pair_batch(4)
    pooled = model.pool_images(pixels(task, batch.images)).detach()
    expected = task(batch)["loss"]
    batch = replace(batch, images=None, pooled=pooled)
    torch.testing.assert_close(task(batch)["loss"], expected)
    with pytest.raises(DatasetError, match="images or their pooled vectors"):
        task(replace(batch, pooled=None))


def test_patches_are_dropped_in_training_only(tokenizer_folder: Path) -> None:
    """Each image keeps its own half of 16 patches; of any few, at least one stays."""
    model = make_dual_encoder(tokenizer_folder)
    kept: list[Tensor | None] = []
    real = model.pool_images

    def spy(images: Tensor, *, keep: Tensor | None = None) -> Tensor:
        kept.append(keep)
        return real(images, keep=keep)

    model.pool_images = spy
    task, batch = ContrastiveTask(model, clip_objective(), patch_dropout=0.5), pair_batch(16)
    task(batch)
    rows = [tuple(sorted(row)) for row in kept[0].tolist()]
    assert all(len(set(row)) == 8 and 0 <= row[0] and row[-1] < 16 for row in rows)
    assert len(set(rows)) > 8
    assert {index for row in rows for index in row} == set(range(16))
    task.patch_dropout = 0.99
    task(batch)
    assert kept[1].shape == (16, 1)
    task.eval()
    task(batch)
    assert kept[2] is None


def test_what_does_not_fit_is_refused(tokenizer_folder: Path) -> None:
    model = make_dual_encoder(tokenizer_folder, logit_bias=True)
    with pytest.raises(ConfigError, match="clip: expected a model with no logit_bias, found one"):
        ContrastiveTask(model, clip_objective())
    model.logit_bias = None
    with pytest.raises(ConfigError, match="siglip: expected a model with a logit_bias, found none"):
        ContrastiveTask(model, siglip_objective())
    model.tokenizer = None
    with pytest.raises(ConfigError, match=r"^model\.text\.tokenizer: expected the folder"):
        ContrastiveTask(model, clip_objective())
    resnet = make_dual_encoder(tokenizer_folder, vision="resnet18")
    with pytest.raises(ConfigError, match="vision transformer, found resnet18"):
        ContrastiveTask(resnet, clip_objective(), patch_dropout=0.5)


def test_weights_without_a_gradient_are_announced(tokenizer_folder: Path) -> None:
    plain, masked = (make_dual_encoder(tokenizer_folder, mask_token=on) for on in (False, True))
    cases = [
        (ContrastiveTask(plain, clip_objective()), False),
        (ContrastiveTask(plain, triplet_objective()), True),
        (ContrastiveTask(masked, clip_objective()), True),
    ]
    for task, expected in cases:
        task.zero_grad()
        task(pair_batch(4))["loss"].backward()
        assert any(weight.grad is None for weight in task.parameters()) is expected
        assert task.find_unused_parameters is expected


@pytest.mark.parametrize(("start", "expected"), [(4.6, 4.60517), (4.765, 4.765), (0.001, 0.0)])
def test_what_is_measured_and_saved_has_a_temperature_in_bounds(
    tokenizer_folder: Path, tmp_path: Path, start: float, expected: float
) -> None:
    """The optimiser would carry it beyond; what evaluation sees at the same step must not be."""
    model = make_dual_encoder(tokenizer_folder)
    model.logit_scale.data.fill_(start)
    task = ContrastiveTask(model, clip_objective())
    seen: list[float] = []

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        seen.append(float(model.logit_scale))
        return {"AP": 0.0}

    def batches(first: int) -> Any:
        while True:
            yield pair_batch(8)

    def push_outwards(*_: Any) -> None:
        task.model.logit_scale.grad.fill_(-1.0 if start > 1 else 1.0)

    trainer = make_trainer(
        tmp_path, task=task, batches=batches, evaluate=evaluate,
        optim={"lr": 0.1, "warmup_steps": 0}, train={"steps": 2, "eval_every": 1},
    )  # fmt: skip
    trainer.optimizer.optimizer.register_step_pre_hook(push_outwards)
    trainer.fit()
    assert seen == pytest.approx([expected, expected], abs=1e-5)


def test_a_run_that_resumes_keeps_the_bound_it_began_with(tokenizer_folder: Path) -> None:
    """It starts from the same weights, into which those it had learned are loaded."""
    model = make_dual_encoder(tokenizer_folder)
    model.logit_scale.data.fill_(4.75)
    task = ContrastiveTask(model, clip_objective())
    for loaded, expected in ((4.7, 4.7), (4.8, 4.75)):
        model.logit_scale.data.fill_(loaded)
        task.finish_step()
        assert model.logit_scale.item() == pytest.approx(expected)


def test_a_frozen_temperature_stays_as_it_is(tokenizer_folder: Path) -> None:
    model = make_dual_encoder(tokenizer_folder)
    model.logit_scale.data.fill_(5.0)
    model.logit_scale.requires_grad_(False)
    ContrastiveTask(model, clip_objective()).finish_step()
    assert model.logit_scale == 5.0


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_locked_tower_stays_bit_for_bit(
    tokenizer_folder: Path, tmp_path: Path, accumulation: int
) -> None:
    """Weights and batch statistics of a ResNet, while the text tower learns."""
    model = make_dual_encoder(tokenizer_folder, vision="resnet18")
    task = ContrastiveTask(model, clip_objective(), accumulation=accumulation)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def batches(start: int) -> Any:
        step = start
        while True:
            yield pair_batch(8, step=step)
            step += 1

    make_trainer(
        tmp_path, task=task, batches=batches,
        optim={"freeze": ["image"], "weight_decay": 0.1},
        train={"steps": 3, "accumulation": accumulation},
    ).fit()  # fmt: skip
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert not any(name.startswith("vision.") for name in changed)
    assert {"image_projection.weight", "logit_scale", "text.projection.weight"} <= changed


def test_a_run_that_was_interrupted_ends_as_if_it_had_not(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    """With dropout, in parts: bit for bit."""

    def run(folder: Path, *, steps: int, resume: bool = False) -> dict[str, Tensor]:
        model = make_dual_encoder(tokenizer_folder, dropout=0.3)
        task = ContrastiveTask(model, clip_objective(), patch_dropout=0.5, accumulation=2)

        def batches(start: int) -> Any:
            for step in range(start, steps):
                yield pair_batch(8, step=step)

        make_trainer(
            folder, task=task, batches=batches, optim={"schedule": "constant"},
            train={"steps": steps, "save_every": 2, "eval_every": 2, "accumulation": 2},
        ).fit(resume=resume)  # fmt: skip
        return model.state_dict()

    expected = run(tmp_path / "whole", steps=6)
    run(tmp_path / "halves", steps=4)
    found = run(tmp_path / "halves", steps=6, resume=True)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_a_batch_is_sliced_and_moved_whole() -> None:
    batch = replace(pair_batch(4, views=True), pooled=torch.rand(4, 3), corrupt=("bad.jpg",))
    part: PairBatch = batch[1:3].to("meta")
    assert len(part) == 2
    assert part.texts == batch.texts[1:3]
    assert part.sources == batch.sources[1:3]
    assert part.images_read == 3
    for tensor in (part.images, part.identities, part.pooled, part.views):
        assert tensor.device.type == "meta"
        assert len(tensor) == 2
