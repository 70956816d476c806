"""MAE's loss: patches by hand, the loss by a loop over hidden patches."""

import pytest
import torch

from owlkit.errors import ConfigError, InputSizeError, QueryError
from owlkit.losses import masked_pixel_loss, patch_pixels


def random_images() -> torch.Tensor:
    return torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))


def test_patches_are_in_rows_with_the_colours_innermost():
    images = random_images()
    patches = patch_pixels(images, 2)
    assert patches.shape == (2, 6, 12)
    # Patch 4 is the second of the second row.
    expected = [
        images[1, colour, row, column] for row in (2, 3) for column in (2, 3) for colour in range(3)
    ]
    assert torch.equal(patches[1, 4], torch.stack(expected))


@pytest.mark.parametrize("normalize", [True, False])
def test_loss_is_the_mean_over_hidden_patches(normalize):
    images = random_images()
    predictions = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(1))
    predictions.requires_grad_()
    mask = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1]]).bool()
    errors = []
    for image, patch in mask.nonzero().tolist():
        row, column = 2 * (patch // 3), 2 * (patch % 3)
        pixels = images[image, :, row : row + 2, column : column + 2].permute(1, 2, 0).flatten()
        if normalize:
            pixels = (pixels - pixels.mean()) / (pixels.std() ** 2 + 1e-6) ** 0.5
        errors.append(((predictions[image, patch] - pixels) ** 2).mean())
    expected = sum(errors) / 4
    found = masked_pixel_loss(predictions, images, mask, patch_size=2, normalize=normalize)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, predictions), torch.autograd.grad(expected, predictions)
    )


def test_flat_patches_and_empty_masks_stay_finite():
    """A patch of one colour is predicted as 0; with nothing hidden there is nothing to learn."""
    images = torch.full((1, 3, 4, 4), 0.7)
    predictions = torch.zeros(1, 4, 12, requires_grad=True)
    hidden = torch.ones(1, 4, dtype=torch.bool)
    assert masked_pixel_loss(predictions, images, hidden, patch_size=2).item() < 1e-6
    nothing = masked_pixel_loss(predictions, images, ~hidden, patch_size=2)
    nothing.backward()
    assert nothing.item() == 0
    assert not predictions.grad.any()


def test_half_precision_is_widened():
    """Errors of 2 to the -10 are lost in bfloat16's squares of values around 1."""
    images = random_images()
    predictions = patch_pixels(images, 2).bfloat16()
    mask = torch.ones(2, 6, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        loss = masked_pixel_loss(predictions, images, mask, patch_size=2, normalize=False)
    expected = (predictions.float() - patch_pixels(images, 2)).square().mean()
    torch.testing.assert_close(loss, expected)


def test_faults_are_named():
    images, mask = random_images(), torch.ones(2, 6, dtype=torch.bool)
    with pytest.raises(InputSizeError, match=r"multiples of 4, found \[2, 3, 4, 6\]"):
        patch_pixels(images, 4)
    with pytest.raises(ConfigError, match="at least 1, found 0"):
        patch_pixels(images, 0)
    with pytest.raises(QueryError, match=r"\[2, 6, 12\] and a mask \[2, 6\], found \[2, 6, 11\]"):
        masked_pixel_loss(torch.ones(2, 6, 11), images, mask, patch_size=2)
