"""DINO's loss and its center, against the original's numbers and a loop over all pairs."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from owlkit.errors import ConfigError, QueryError
from owlkit.losses import DinoLoss, TeacherTargets, dino_loss, sinkhorn_knopp

STEPS = range(4)


@pytest.fixture
def peer(golden: Callable[[str], Path]) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Inputs in float64, as the peer had them, and its outputs."""
    folder = golden("05_dino")
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "outputs.npz") as outputs:
        numbers = {key: torch.tensor(inputs[key]).double() for key in ("student", "teacher")}
        return numbers, dict(outputs)


def slow_dino(student: Tensor, probs: Tensor, images: int, temperature: float) -> Tensor:
    """One pair of views, one image after the other."""
    terms = []
    for t in range(len(probs) // images):
        for v in range(len(student) // images):
            for image in range(images):
                logits = student[v * images + image] / temperature
                log_probs = logits - logits.exp().sum().log()
                if t != v:
                    terms.append(-(probs[t * images + image] * log_probs).sum())
    return sum(terms) / len(terms)


def test_steps_are_those_of_dino(peer, golden):
    inputs, outputs = peer
    params = json.loads((golden("05_dino") / "params.json").read_text())
    temperatures = outputs["w1_dino1_teacher_temp_schedule"][params["epochs"]]
    loss = DinoLoss(16).double()
    for step in STEPS:
        student = inputs["student"][step].requires_grad_()
        value = loss(student, inputs["teacher"][step], temperature=temperatures[step])
        value.backward()
        loss.update_center()
        assert value.item() == pytest.approx(outputs[f"w1_dino1_loss_{step}"].item(), rel=1e-10)
        for found, name in ((student.grad, "grad_student"), (loss.center, "center")):
            np.testing.assert_allclose(found, outputs[f"w1_dino1_{name}_{step}"], atol=1e-12)


def test_float32_keeps_the_tolerance_of_the_peer(peer, golden):
    inputs, outputs = peer
    student = inputs["student"][0].float().requires_grad_()
    value = DinoLoss(16)(student, inputs["teacher"][0].float(), temperature=0.04)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(outputs["w1_dino1_loss_0"].item(), rel=1e-5)
    np.testing.assert_allclose(
        student.grad, outputs["w1_dino1_grad_student_0"], atol=1e-6, rtol=1e-4
    )


def test_targets_and_local_terms_are_those_of_dinov2(peer):
    """The local terms are what all pairs have more than the pairs of global views."""
    inputs, outputs = peer
    targets = TeacherTargets(16).double()
    for step in STEPS:
        np.testing.assert_allclose(targets.center, outputs[f"w1_dino2_center_used_{step}"])
        probs = targets(inputs["teacher"][step], 0.07)
        np.testing.assert_allclose(probs, outputs[f"w1_dino2_teacher_probs_{step}"], atol=1e-12)
        student = inputs["student"][step].requires_grad_()
        local = 8 * dino_loss(student, probs) - 2 * dino_loss(student[:8], probs)
        local.backward()
        assert local.item() == pytest.approx(
            outputs[f"w1_dino2_loss_local_{step}"].item(), rel=1e-10
        )
        np.testing.assert_allclose(
            student.grad, outputs[f"w1_dino2_grad_student_{step}"], atol=1e-12
        )
        targets.update_center()
    np.testing.assert_allclose(targets.center, outputs["w1_dino2_center_final"])


@pytest.mark.parametrize(
    ("global_crops", "views"), [(1, 2), (1, 4), (2, 2), (2, 5), (3, 3), (3, 4)]
)
def test_every_pair_of_different_views_counts_once(global_crops, views):
    generator = torch.Generator().manual_seed(views)
    student = torch.randn(views * 3, 7, generator=generator, dtype=torch.float64)
    probs = torch.rand(global_crops * 3, 7, generator=generator, dtype=torch.float64)
    probs /= probs.sum(dim=1, keepdim=True)
    student.requires_grad_()
    found = dino_loss(student, probs, global_crops=global_crops, temperature=0.3)
    expected = slow_dino(student, probs, 3, 0.3)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, student), torch.autograd.grad(expected, student)
    )


def test_half_precision_is_widened_before_the_softmax(peer):
    inputs, _ = peer
    student, teacher = (inputs[key][0].bfloat16() for key in ("student", "teacher"))
    half, single = DinoLoss(16), DinoLoss(16)
    with torch.autocast("cpu", torch.bfloat16):
        found = half(student, teacher, temperature=0.04)
    assert torch.equal(found, single(student.float(), teacher.float(), temperature=0.04))
    half.update_center()
    single.update_center()
    assert torch.equal(half.center, single.center)


def test_balanced_targets_replace_the_center(peer):
    inputs, _ = peer
    loss = DinoLoss(16, centering="sinkhorn_knopp", sinkhorn_iterations=2).double()
    probs = loss.assign(inputs["teacher"][0], 0.07)
    assert torch.equal(probs, sinkhorn_knopp(inputs["teacher"][0], 0.07, 2))
    loss.update_center()
    assert not loss.center.any()


@pytest.mark.parametrize(
    ("student", "probs", "global_crops"),
    [
        pytest.param((10, 4), (4, 5), 2, id="prototypes"),
        pytest.param((10, 4), (3, 4), 2, id="no whole views of the teacher"),
        pytest.param((9, 4), (4, 4), 2, id="no whole views of the student"),
        pytest.param((2, 4), (4, 4), 2, id="fewer views than the teacher"),
        pytest.param((4, 4), (4, 4), 1, id="no other view"),
        pytest.param((0, 4), (0, 4), 2, id="empty batch"),
        pytest.param((10,), (4, 4), 2, id="one vector"),
    ],
)
def test_wrong_shapes_are_named(student, probs, global_crops):
    with pytest.raises(QueryError) as error:
        dino_loss(torch.ones(student), torch.ones(probs), global_crops=global_crops)
    assert f"{list(student)} and {list(probs)}" in str(error.value)


def test_settings_out_of_range_are_refused():
    views = torch.ones(4, 3)
    with pytest.raises(ConfigError, match="temperature above 0, found 0"):
        dino_loss(views, views, temperature=0)
    with pytest.raises(ConfigError, match="temperature above 0, found 0"):
        DinoLoss(3, student_temperature=0)
    with pytest.raises(ConfigError, match="1 global crop, found 0"):
        dino_loss(views, views, global_crops=0)
