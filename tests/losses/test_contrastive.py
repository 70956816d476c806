"""CLIP's and SigLIP's losses, against open_clip's numbers, slow sums and the plain form."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from owlkit.errors import ConfigError, QueryError
from owlkit.losses import clip_loss, siglip_loss

IDENTITIES = [7, 3, 7, 1, 3, 7, 0, 2, 9, 1, 5]


def random_pairs(count: int, width: int, *, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Images, texts, scale and bias that ask for gradients."""
    generator = torch.Generator().manual_seed(count)
    images, texts = F.normalize(
        torch.randn(2, count, width, generator=generator, dtype=dtype), dim=2
    )
    leaves = [images, texts, torch.tensor(12.0, dtype=dtype), torch.tensor(-3.0, dtype=dtype)]
    return [leaf.clone().requires_grad_() for leaf in leaves]


def gradients(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, leaves))


def plain_siglip(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, identities: Tensor | None = None
) -> Tensor:
    """All pairs at once."""
    identities = torch.arange(len(images)) if identities is None else identities
    signs = torch.where(identities[:, None] == identities, 1.0, -1.0)
    return -F.logsigmoid(signs * (scale * images @ texts.mT + bias)).sum() / len(images)


def slow_clip(images: Tensor, texts: Tensor, scale: float, identities: list[int]) -> float:
    """One anchor after the other, one positive after the other."""
    losses = []
    for rows, columns in ((images, texts), (texts, images)):
        for row, identity in zip(rows, identities, strict=True):
            weights = [math.exp(scale * float(row @ column)) for column in columns]
            terms = [
                -math.log(weight / sum(weights))
                for weight, other in zip(weights, identities, strict=True)
                if other == identity
            ]
            losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses)


def slow_siglip(
    images: Tensor, texts: Tensor, scale: float, bias: float, identities: list[int]
) -> float:
    total = 0.0
    for image, identity in zip(images, identities, strict=True):
        for text, other in zip(texts, identities, strict=True):
            logit = scale * float(image @ text) + bias
            total -= math.log(1 / (1 + math.exp(-logit if identity == other else logit)))
    return total / len(images)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_loss_and_gradients_are_those_of_open_clip(golden, name):
    folder = golden("04_contrastive")
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "outputs.npz") as outputs:
        images, texts, scale, bias = (
            torch.tensor(inputs[key], requires_grad=True)
            for key in ("image_features", "text_features", "logit_scale", "logit_bias")
        )
        leaves = {"image": images, "text": texts, "scale": scale}
        if name == "clip":
            loss = clip_loss(images, texts, scale)
        else:
            leaves["bias"] = bias
            loss = siglip_loss(images, texts, scale, bias, chunk_size=5)
        loss.backward()
        assert loss.item() == pytest.approx(outputs[f"w1_{name}_loss"].item(), rel=1e-5)
        for key, leaf in leaves.items():
            assert np.abs(leaf.grad.numpy() - outputs[f"w1_{name}_grad_{key}"]).max() < 1e-5


def test_float64_stays_float64(golden):
    folder = golden("04_contrastive")
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "outputs.npz") as outputs:
        images, texts, scale, bias = (
            torch.tensor(inputs[key]).double()
            for key in ("image_features", "text_features", "logit_scale", "logit_bias")
        )
        clip, siglip = clip_loss(images, texts, scale), siglip_loss(images, texts, scale, bias)
        assert clip.item() == pytest.approx(outputs["w1_clip_loss"].item(), rel=1e-9)
        assert siglip.item() == pytest.approx(outputs["w1_siglip_loss"].item(), rel=1e-9)


@pytest.mark.parametrize("identities", [IDENTITIES, list(range(11)), [4] * 11])
def test_equal_identities_are_positives_of_each_other(identities):
    images, texts, scale, bias = (leaf.detach() for leaf in random_pairs(11, 6))
    given = torch.tensor(identities)
    clip = clip_loss(images, texts, scale, identities=given)
    siglip = siglip_loss(images, texts, scale, bias, identities=given, chunk_size=4)
    assert clip.item() == pytest.approx(slow_clip(images, texts, 12.0, identities), rel=1e-12)
    assert siglip.item() == pytest.approx(
        slow_siglip(images, texts, 12.0, -3.0, identities), rel=1e-12
    )


def test_without_identities_all_rows_differ():
    images, texts, scale, bias = (leaf.detach() for leaf in random_pairs(11, 6))
    numbers = torch.arange(11).flip(0)
    assert clip_loss(images, texts, scale) == clip_loss(images, texts, scale, identities=numbers)
    assert siglip_loss(images, texts, scale, bias) == siglip_loss(
        images, texts, scale, bias, identities=numbers
    )


def test_gradient_of_clip_is_that_of_its_slope():
    leaves = random_pairs(11, 6)[:3]
    given = torch.tensor(IDENTITIES)
    assert torch.autograd.gradcheck(lambda *args: clip_loss(*args, identities=given), leaves)


def test_clip_in_chunks_is_one_cross_entropy():
    leaves = random_pairs(600, 16)[:3]
    images, texts, scale = leaves
    logits, pairs = scale * images @ texts.mT, torch.arange(600)
    plain = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.mT, pairs)) / 2
    loss = clip_loss(*leaves)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
    for ours, expected in zip(gradients(loss, leaves), gradients(plain, leaves), strict=True):
        assert (ours - expected).abs().max() < 1e-12 * expected.abs().max()


@pytest.mark.parametrize("chunk_size", [1, 7, 256, 1000])
@pytest.mark.parametrize("repeated", [False, True])
def test_siglip_in_chunks_has_the_gradients_of_the_plain_form(chunk_size, repeated):
    """In float32; the number of texts is no multiple of the chunk."""
    leaves = random_pairs(300, 64, dtype=torch.float32)
    identities = torch.arange(300) // 3 if repeated else None
    loss = siglip_loss(*leaves, identities=identities, chunk_size=chunk_size)
    plain = plain_siglip(*leaves, identities)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    for ours, expected in zip(gradients(loss, leaves), gradients(plain, leaves), strict=True):
        assert (ours - expected).abs().max() < 1e-6 * expected.abs().max()


def test_autocast_does_not_lower_the_precision():
    leaves = random_pairs(40, 16, dtype=torch.float32)
    losses = {
        "clip": lambda: clip_loss(*leaves[:3]),
        "siglip": lambda: siglip_loss(*leaves, chunk_size=16),
    }
    for loss in losses.values():
        expected = loss()
        expected_gradient = gradients(expected, leaves[:1])[0]
        with torch.autocast("cpu", torch.bfloat16):
            ours = loss()
        assert torch.equal(ours, expected)
        assert torch.equal(gradients(ours, leaves[:1])[0], expected_gradient)


def test_sure_and_right_answers_keep_their_small_loss():
    """All logits are 15 on the right side: each pair adds exp(-15)."""
    eye = torch.eye(64)
    loss = siglip_loss(eye, eye, torch.tensor(30.0), torch.tensor(-15.0))
    assert loss.item() == pytest.approx(64 * math.log1p(math.exp(-15)), rel=1e-5)


@pytest.mark.parametrize(
    ("images", "texts", "identities", "message"),
    [
        pytest.param((4, 8), (3, 8), None, r"\[4, 8\] and \[3, 8\]", id="rows"),
        pytest.param((4, 8), (4, 6), None, r"\[4, 8\] and \[4, 6\]", id="widths"),
        pytest.param((8,), (8,), None, r"\[8\] and \[8\]", id="one vector"),
        pytest.param((0, 8), (0, 8), None, "at least 1", id="empty batch"),
        pytest.param((4, 8), (4, 8), (3,), r"\[4\], found \[3\]", id="identities"),
    ],
)
def test_wrong_shapes_are_named(images, texts, identities, message):
    given = torch.zeros(identities, dtype=torch.int64) if identities else None
    one = torch.tensor(1.0)
    with pytest.raises(QueryError, match=message):
        clip_loss(torch.ones(images), torch.ones(texts), one, identities=given)
    with pytest.raises(QueryError, match=message):
        siglip_loss(torch.ones(images), torch.ones(texts), one, one, identities=given)


def test_a_chunk_without_texts_is_refused():
    eye, one = torch.eye(2), torch.tensor(1.0)
    with pytest.raises(ConfigError, match="at least 1, found 0"):
        siglip_loss(eye, eye, one, one, chunk_size=0)
