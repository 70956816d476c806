"""Objectness loss against a loop; what it trains, and what it must leave alone."""

import math

import torch

from owlkit.losses.objectness import objectness_loss


def test_the_target_is_the_best_probability_among_real_queries():
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    objectness = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 1, 0], [0, 0, 1, 0, 0]]).bool()
    loss = objectness_loss(objectness, logits, mask)
    for image in range(3):
        for token in range(4):
            real = [
                x
                for x, keep in zip(logits[image, token].tolist(), mask[image], strict=True)
                if keep
            ]
            target = max(1 / (1 + math.exp(-x)) for x in real)
            score = 1 / (1 + math.exp(-objectness[image, token].item()))
            expected = -target * math.log(score) - (1 - target) * math.log(1 - score)
            assert math.isclose(loss[image, token].item(), expected, rel_tol=1e-5)


def test_only_the_objectness_learns():
    logits = torch.randn(1, 4, 5, requires_grad=True)
    objectness = torch.zeros(1, 4, requires_grad=True)
    objectness_loss(objectness, logits, torch.ones(1, 5, dtype=torch.bool)).sum().backward()
    assert logits.grad is None
    torch.testing.assert_close(objectness.grad, 0.5 - logits.amax(dim=2).sigmoid().detach())


def test_an_image_without_real_queries_says_nothing():
    objectness = torch.randn(2, 4, requires_grad=True)
    mask = torch.tensor([[True, False], [False, False]])
    loss = objectness_loss(objectness, torch.randn(2, 4, 2), mask)
    (gradient,) = torch.autograd.grad(loss.sum(), objectness)
    assert (loss[0] > 0).all()
    assert loss[1].tolist() == gradient[1].tolist() == [0.0] * 4
    assert (
        objectness_loss(objectness, torch.randn(2, 4, 0), mask[:, :0]).tolist() == [[0.0] * 4] * 2
    )
