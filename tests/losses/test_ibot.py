"""The loss of hidden patches, against DINOv2's numbers and hand-made cases."""

import math

import numpy as np
import pytest
import torch

from owlkit.errors import ConfigError, QueryError
from owlkit.losses import TeacherTargets, ibot_loss


def test_steps_are_those_of_dinov2(golden):
    """One of the masks hides a single patch; the center moves by the hidden ones alone."""
    folder = golden("05_dino")
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "outputs.npz") as outputs:
        mask = torch.tensor(inputs["ibot_mask"])
        logits = torch.tensor(inputs["ibot_teacher"]).double()[mask]
        targets = TeacherTargets(16).double()
        for step in range(2):
            center = outputs[f"w1_ibot_center_used_{step}"]
            np.testing.assert_allclose(targets.center, center[0])
            probs = targets(logits * (1 + 0.3 * step), 0.07)
            np.testing.assert_allclose(probs, outputs[f"w1_ibot_teacher_probs_{step}"], atol=1e-12)
            student = torch.tensor(inputs["ibot_student"]).double()[mask].requires_grad_()
            loss = ibot_loss(student, probs, mask)
            loss.backward()
            # The peer's weights of the images are float32.
            assert loss.item() == pytest.approx(outputs[f"w1_ibot_loss_{step}"].item(), rel=1e-7)
            np.testing.assert_allclose(
                student.grad, outputs[f"w1_ibot_grad_student_masked_{step}"], rtol=1e-7, atol=1e-9
            )
            targets.update_center()
        np.testing.assert_allclose(targets.center, outputs["w1_ibot_center_final"][0])
        balanced = TeacherTargets(16, centering="sinkhorn_knopp")(logits.float(), 0.07)
        np.testing.assert_allclose(balanced, outputs["w1_ibot_sk_probs"], atol=1e-6)


def test_images_count_alike_and_unmasked_ones_too():
    """Of 4 images two hide patches, 3 and 1: (mean of 3 + 1 of 1) / 4, images without between."""
    mask = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 0, 0], [0, 1, 0]]).bool()
    student = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probs = torch.eye(5).double()[:4]
    losses = [
        math.log(sum(math.exp(value / 0.2) for value in row)) - row[i] / 0.2
        for i, row in enumerate(student.tolist())
    ]
    expected = (sum(losses[:3]) / 3 + losses[3]) / 4
    assert ibot_loss(student, probs, mask, temperature=0.2).item() == pytest.approx(expected)


def test_nothing_hidden_is_0_with_a_gradient():
    student = torch.zeros(0, 5, requires_grad=True)
    head = torch.ones(5, requires_grad=True)
    loss = ibot_loss(student * head, torch.zeros(0, 5), torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(head.grad, torch.zeros(5))


def test_faults_are_named():
    mask = torch.tensor([[True, False], [True, False]])
    rows = torch.ones(2, 5)
    with pytest.raises(QueryError, match="each of 2 hidden patches, found 3"):
        ibot_loss(torch.ones(3, 5), torch.ones(3, 5), mask)
    with pytest.raises(QueryError, match=r"\[2, 5\] and \[2, 4\]"):
        ibot_loss(rows, torch.ones(2, 4), mask)
    with pytest.raises(QueryError, match=r"torch.int64 \[2, 2\]"):
        ibot_loss(rows, rows, mask.long())
    with pytest.raises(ConfigError, match="above 0, found 0"):
        ibot_loss(rows, rows, mask, temperature=0)
