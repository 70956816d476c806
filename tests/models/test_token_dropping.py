"""Patches chosen by variance against a slow loop, and on pictures whose answer is known."""

import numpy as np
import pytest
import torch

from owlkit.errors import ConfigError
from owlkit.models.token_dropping import keep_by_variance


def slow_choice(images: torch.Tensor, patch: int, drop: float, seed: int) -> list[list[int]]:
    """OWLv2's rule, patch by patch in numpy, with the same noise."""
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)).numpy()
    pixels = images.numpy().astype(np.float64)
    noisy = (pixels / 255 if images.dtype == torch.uint8 else pixels) + 0.01 * noise
    chosen = []
    for image in noisy:
        variances = [
            image[:, y : y + patch, x : x + patch].var()
            for y in range(0, image.shape[1] - patch + 1, patch)
            for x in range(0, image.shape[2] - patch + 1, patch)
        ]
        order = np.argsort(variances)
        chosen.append(sorted(order[int(drop * len(variances)) :].tolist()))
    return chosen


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_matches_a_loop_over_patches(drop, kind):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 3, 12, 20), generator=generator, dtype=torch.uint8)
    # Patches of different contrast, so that the order does not hang on rounding.
    images = (
        images
        * torch.rand(3, 1, 3, 5, generator=generator)
        .repeat_interleave(4, 2)
        .repeat_interleave(4, 3)
    ).to(torch.uint8)
    images = images if kind == torch.uint8 else images / 255
    keep = keep_by_variance(images, 4, drop=drop, generator=torch.Generator().manual_seed(7))
    assert keep.dtype == torch.int64
    assert keep.tolist() == slow_choice(images, 4, drop, seed=7)
    assert keep.shape == (3, 15 - int(drop * 15))


def test_flat_patches_go_first_whatever_their_colour():
    images = torch.zeros(2, 3, 8, 16)
    images[0, :, :, 8:] = torch.rand(3, 8, 8)  # columns 2 and 3 of a 2 x 4 grid
    images[1] = 1.0
    images[1, :, 4:, :] = torch.rand(3, 4, 16)
    assert keep_by_variance(images, 4, drop=0.5).tolist() == [[2, 3, 6, 7], [4, 5, 6, 7]]


def test_a_patch_that_differs_only_between_channels_is_not_flat():
    images = torch.zeros(1, 3, 4, 8)
    images[0, 0, :, 4:] = 1.0  # evenly red
    assert keep_by_variance(images, 4, drop=0.5).tolist() == [[1]]


def test_noise_decides_among_flat_patches():
    flat = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    draws = {
        tuple(keep_by_variance(flat, 4, drop=0.5, generator=generator)[0].tolist())
        for _ in range(5)
    }
    assert len(draws) == 5
    again = keep_by_variance(flat, 4, drop=0.5, generator=torch.Generator().manual_seed(0))
    assert tuple(again[0].tolist()) in draws


def test_incomplete_patches_do_not_count():
    images = torch.zeros(1, 3, 9, 11)
    images[..., 8:] = torch.rand(3, 9, 3)
    images[:, :, :4, :4] = torch.rand(3, 4, 4)
    assert keep_by_variance(images, 4, drop=0.75).tolist() == [[0]]


@pytest.mark.parametrize("drop", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(drop):
    with pytest.raises(ConfigError, match=r"in \[0, 1\), found"):
        keep_by_variance(torch.zeros(1, 3, 8, 8), 4, drop=drop)


@pytest.mark.parametrize("patch_size", [0, 9])
def test_a_patch_that_does_not_fit_is_refused(patch_size):
    with pytest.raises(ConfigError, match="patch_size must be from 1"):
        keep_by_variance(torch.zeros(1, 3, 8, 8), patch_size, drop=0.5)
