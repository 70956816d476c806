"""Colours are normalised as the model's own preprocessing does it."""

import numpy as np
import pytest
import torch

from owlkit.engine.pixels import PixelScaler
from owlkit.geometry import owlvit_preprocessing


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pixels_are_those_of_the_preprocessing(layout: torch.memory_format) -> None:
    preprocessing = owlvit_preprocessing((8, 8), "scenic")
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8).to(memory_format=layout)
    scaler = PixelScaler(preprocessing)
    expected = (images.numpy() / 255 - np.reshape(preprocessing.mean, (3, 1, 1))) / np.reshape(
        preprocessing.std, (3, 1, 1)
    )
    found = scaler(images)
    # Both sides round in float32 or finer: some units in the last place of values up to 2.7.
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=0, atol=1e-6)
    assert found.is_contiguous()
    torch.testing.assert_close(scaler(images.view(2, 2, 3, 8, 8)).flatten(0, 1), found)
    assert not scaler.state_dict()
