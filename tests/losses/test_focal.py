"""Focal loss against scenic's values and gradients, its formula in float64, and extreme logits."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from owlkit.losses import focal_loss
from owlkit.losses.focal import uniform_focal_loss

EXTREME = [0.0, 1e-3, 20.0, 90.0, 110.0, 1e6, 3.4e38]


@pytest.fixture(scope="module")
def inputs(golden) -> dict[str, np.ndarray]:
    return dict(np.load(golden("06_boxes") / "inputs.npz"))


@pytest.fixture(scope="module")
def expected(golden) -> dict[str, np.ndarray]:
    return dict(np.load(golden("06_boxes") / "outputs.npz"))


@pytest.mark.parametrize("name", ["a0.3_g2.0", "a0.5_g2.0", "a0.25_g1.5", "a0.3_g0.0"])
@pytest.mark.parametrize("kind", ["", "soft_"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_match_scenic(inputs, expected, name, kind, dtype):
    alpha, gamma = map(float, re.findall(r"[\d.]+", name))
    logits = torch.tensor(inputs["focal_logits"], dtype=dtype).requires_grad_()
    targets = torch.tensor(inputs[f"focal_{kind}targets"], dtype=dtype)
    loss = focal_loss(logits, targets, alpha=alpha, gamma=gamma)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.dtype == dtype
    np.testing.assert_allclose(loss.detach(), expected[f"focal_{kind}{name}"], atol=2e-6, rtol=2e-6)
    wanted = expected[f"focal_{kind}{name}_grad"]
    comparable = np.isfinite(wanted)  # scenic's own gradient is NaN at gamma 0 and extreme logits
    assert gradient.isfinite().all()
    np.testing.assert_allclose(gradient[comparable], wanted[comparable], atol=1e-5)


@pytest.mark.parametrize("kind", ["", "_soft"])
def test_without_alpha_it_is_cross_entropy(inputs, expected, kind):
    targets = torch.tensor(inputs[f"focal{kind}_targets"])
    loss = focal_loss(torch.tensor(inputs["focal_logits"]), targets, alpha=None)
    np.testing.assert_allclose(loss, expected[f"bce{kind}"], atol=2e-6, rtol=2e-6)


def test_a_sure_and_right_logit_keeps_its_relative_precision():
    """A cross-entropy that subtracts two large numbers is 1 % off already at a logit of -10."""
    logits = torch.tensor([-10.0, -20.0, 10.0])
    targets = torch.tensor([0.0, 0.0, 1.0])
    precise = torch.expm1(-F.softplus(-logits.abs().double())).square()
    precise *= F.softplus(-logits.abs().double()) * torch.tensor([0.7, 0.7, 0.3]).double()
    for loss in (
        focal_loss(logits, targets),
        torch.stack(
            [uniform_focal_loss(x, target=bool(t)) for x, t in zip(logits, targets, strict=True)]
        ),
    ):
        torch.testing.assert_close(loss.double(), precise, rtol=1e-5, atol=0)


@pytest.mark.parametrize("alpha", [0.3, 0.0, 1.0, None])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("target", [False, True])
def test_uniform_targets_match_the_general_form(alpha, gamma, target):
    logits = torch.linspace(-40, 40, 161).requires_grad_()
    general = focal_loss(logits, torch.full_like(logits, target), alpha=alpha, gamma=gamma)
    uniform = uniform_focal_loss(logits, target=target, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(uniform, general, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        torch.autograd.grad(uniform.sum(), logits)[0],
        torch.autograd.grad(general.sum(), logits)[0],
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.5, 2.0])
def test_extreme_logits_have_finite_losses_and_gradients(gamma):
    logits = torch.tensor([sign * value for value in EXTREME for sign in (-1, 1)]).requires_grad_()
    for target in (0.0, 0.25, 1.0):
        losses = [focal_loss(logits, torch.full_like(logits, target), gamma=gamma)]
        if target != 0.25:
            losses.append(uniform_focal_loss(logits, target=bool(target), gamma=gamma))
        for loss in losses:
            (gradient,) = torch.autograd.grad(loss.sum().clamp(max=1e38), logits)
            assert loss.isfinite().all()
            assert (loss >= 0).all()
            assert gradient.isfinite().all()


def test_half_precision_is_widened():
    logits = torch.tensor([-3.0, 2.0], dtype=torch.bfloat16)
    targets = torch.tensor([1.0, 0.0], dtype=torch.bfloat16)
    wide = focal_loss(logits.float(), targets.float())
    torch.testing.assert_close(focal_loss(logits, targets), wide)
    assert uniform_focal_loss(logits, target=True).dtype == torch.float32
