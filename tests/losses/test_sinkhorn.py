"""Balanced assignments, against DINOv2's numbers and the plain form in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from owlkit.errors import ConfigError, QueryError
from owlkit.losses import sinkhorn_knopp


def plain_sinkhorn(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    """As the paper writes it: exponentials, scaled by columns and rows."""
    rows, prototypes = logits.shape
    shares = (logits / temperature).exp()
    shares /= shares.sum()
    for _ in range(iterations):
        shares /= shares.sum(dim=0, keepdim=True) * prototypes
        shares /= shares.sum(dim=1, keepdim=True) * rows
    return shares * rows


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_probabilities_are_those_of_dinov2(golden, iterations):
    folder = golden("05_dino")
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "outputs.npz") as outputs:
        probs = sinkhorn_knopp(torch.tensor(inputs["teacher"][0]), 0.07, iterations)
        expected = outputs[f"w1_sk_probs_iter{iterations}"]
    assert probs.dtype == torch.float32
    np.testing.assert_allclose(probs, expected, atol=1e-6)


def test_temperature_and_iterations_are_those_of_the_plain_form():
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for temperature, iterations in ((0.5, 1), (0.1, 4)):
        torch.testing.assert_close(
            sinkhorn_knopp(logits, temperature, iterations),
            plain_sinkhorn(logits, temperature, iterations),
        )
    balanced = sinkhorn_knopp(logits, 0.5, 500)
    torch.testing.assert_close(balanced.sum(dim=0), torch.full((5,), 9 / 5).double())


def test_neither_large_nor_distant_logits_are_lost():
    """exp(1e4) overflows; a row or prototype 1e4 below the others would be 0 / 0."""
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    logits[2] -= 1000
    logits[:, 1] -= 1000
    probs = sinkhorn_knopp(logits + 1000, 0.1, 3)
    expected = sinkhorn_knopp(logits.double() + 1000, 0.1, 3).float()
    assert probs.isfinite().all()
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(6))
    # Logits of 1e4 are known to 1e-3 in float32.
    torch.testing.assert_close(probs, expected, atol=5e-3, rtol=0)


def test_faults_are_named():
    with pytest.raises(ConfigError, match="found 0 and 3"):
        sinkhorn_knopp(torch.ones(2, 2), 0)
    with pytest.raises(ConfigError, match=r"found 0\.1 and 0"):
        sinkhorn_knopp(torch.ones(2, 2), 0.1, 0)
    with pytest.raises(QueryError, match=r"\[N, K\], found \[2\]"):
        sinkhorn_knopp(torch.ones(2), 0.1)
