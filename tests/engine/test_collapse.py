"""Signs of collapse against their definitions, and the judgement on them."""

import math

import numpy as np
import pytest
import torch

from owlkit.engine.collapse import CollapseWatch, feature_terms, output_terms, spread
from owlkit.errors import TrainingError


@pytest.mark.parametrize("global_crops", [1, 2, 3])
def test_output_terms_are_their_definitions(global_crops: int) -> None:
    torch.manual_seed(0)
    images, prototypes, views = 5, 7, global_crops + 2
    probs = (3 * torch.randn(global_crops * images, prototypes)).softmax(dim=1)
    logits = torch.randn(views * images, prototypes)
    terms = output_terms(probs, logits, temperature=0.3, global_crops=global_crops)

    p = probs.double().numpy()
    q = (logits.double() / 0.3).softmax(dim=1).numpy()
    divergences = [
        np.sum(p[t * images + i] * np.log(p[t * images + i] / q[v * images + i]))
        for t in range(global_crops)
        for v in range(global_crops)
        for i in range(images)
        if t != v
    ]
    mean = p.mean(axis=0)
    assert terms["teacher_entropy"].item() == pytest.approx(-(p * np.log(p)).sum(axis=1).mean())
    assert terms["batch_entropy"].item() == pytest.approx(-(mean * np.log(mean)).sum())
    expected = np.mean(divergences) if divergences else 0.0
    assert terms["student_kl"].item() == pytest.approx(expected, rel=1e-5)


def test_probabilities_of_zero_are_no_obstacle() -> None:
    probs = torch.eye(4)
    terms = output_terms(probs, torch.zeros(4, 4), temperature=1.0, global_crops=2)
    assert terms["teacher_entropy"] == 0
    assert terms["batch_entropy"].item() == pytest.approx(math.log(4))
    assert terms["student_kl"].item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("shape", [(6, 20), (50, 8)])
def test_rank_counts_the_directions_in_which_vectors_differ(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    features = torch.randn(shape) * torch.arange(1, shape[1] + 1) + 0.5
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    eigenvalues = np.linalg.eigvalsh(np.cov(unit.numpy(), rowvar=False))
    terms = feature_terms(features)
    expected = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert terms["feature_rank"].item() == pytest.approx(expected, rel=1e-4)
    deviation = unit.std(dim=0, correction=0).mean() * math.sqrt(shape[1])
    assert terms["feature_std"].item() == pytest.approx(deviation.item(), rel=1e-5)


def test_spread_is_one_on_the_whole_sphere_and_zero_in_a_point() -> None:
    torch.manual_seed(0)
    assert spread(torch.randn(4000, 64)).item() == pytest.approx(1, abs=0.01)
    same = torch.ones(8, 1) * torch.randn(64)
    assert spread(same).item() < 1e-6
    terms = feature_terms(torch.ones(8, 64))
    assert terms["feature_std"] < 1e-6
    assert math.isfinite(terms["feature_rank"])


def test_terms_stay_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    features = torch.randn(8, 32) * 1e-4 + torch.randn(32)  # bfloat16 would round this away
    expected = feature_terms(features)
    with torch.autocast("cpu", torch.bfloat16):
        found = feature_terms(features)
    assert found == expected


@pytest.mark.parametrize(
    ("teacher", "batch", "message"),
    [
        (6.80, 6.85, "uniform over the prototypes.* a lower teacher temperature"),
        (0.02, 0.04, "one-hot.* centering with a lower center_momentum or sinkhorn_knopp"),
        (0.02, 3.0, None),  # sharp, and another prototype for each image
        (6.5, 6.9, None),  # hesitant, and yet not the same for all
    ],
)
def test_outputs_are_judged_by_what_they_tell_about_the_image(
    teacher: float, batch: float, message: str | None
) -> None:
    watch = CollapseWatch(1024, after=100)
    means = {"teacher_entropy": teacher, "batch_entropy": batch, "feature_std": 0.0}
    watch.check(99, means)
    if message is None:
        watch.check(100, means)
    else:
        with pytest.raises(TrainingError, match=f"step 100: .*{message}"):
            watch.check(100, means)


@pytest.mark.parametrize("name", ["feature_std", "projection_std"])
def test_constant_vectors_are_a_collapse(name: str) -> None:
    watch = CollapseWatch(None, after=100)
    means = {"feature_std": 0.02, "projection_std": 0.02}
    watch.check(100, means)
    watch.check(99, {**means, name: 0.009})
    with pytest.raises(TrainingError, match=f"{name} of at least 0.01, found 0.0090"):
        watch.check(100, {**means, name: 0.009})
