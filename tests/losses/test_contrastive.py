"""The contrastive loss, against the numbers of open_clip."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from owlkit.losses.contrastive import clip_loss


def test_loss_and_gradients_are_those_of_open_clip(golden: Callable[[str], Path]) -> None:
    folder = golden("04_contrastive")
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "outputs.npz") as outputs:
        images, texts, scale = (
            torch.tensor(inputs[name], requires_grad=True)
            for name in ("image_features", "text_features", "logit_scale")
        )
        loss = clip_loss(images, texts, scale)
        loss.backward()
        assert abs(loss.item() / outputs["w1_clip_loss"] - 1) < 1e-5
        for tensor, name in ((images, "image"), (texts, "text"), (scale, "scale")):
            assert tensor.grad is not None
            assert np.abs(tensor.grad.numpy() - outputs[f"w1_clip_grad_{name}"]).max() < 1e-5


def test_autocast_does_not_lower_the_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(2, 8, 16, generator=generator)
    expected = clip_loss(images, texts, torch.tensor(50.0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(clip_loss(images, texts, torch.tensor(50.0)), expected)
