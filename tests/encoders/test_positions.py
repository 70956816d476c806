"""Position tables of other sizes, against what six published implementations compute."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from owlkit.encoders.positions import check_position_mode, resample_positions
from owlkit.errors import InputSizeError

PEERS = {
    "hf": "bicubic",
    "dino1": "bicubic_offset",
    "dinov2": "bicubic_offset",
    "dinov2_reg": "bicubic_antialias",
    "dinov2_off0_noaa": "bicubic",
    "scenic": "bilinear_aligned",
}


@pytest.mark.parametrize("peer", PEERS)
def test_each_mode_reproduces_its_peer(golden: Callable[[str], Path], peer: str) -> None:
    folder = golden("03b_position_interpolation")
    inputs, outputs = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    table = torch.from_numpy(inputs["pos_embed"])[:, 1:]
    compared = 0
    for index, (height, width) in enumerate(inputs["sizes"] // inputs["patch"]):
        if f"{peer}_{index}" not in outputs:
            continue  # scenic takes squares only
        expected = outputs[f"{peer}_{index}"][:, 1:]
        grid = (int(height), int(width))
        found = resample_positions(table, (5, 5), grid, mode=PEERS[peer])
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
        compared += 1
    assert compared >= 2


def test_aligned_mode_is_what_scenic_does_when_it_loads_clip(
    golden: Callable[[str], Path],
) -> None:
    arrays = np.load(golden("scenic_tiny") / "owl_goldens.npz")
    table = torch.from_numpy(arrays["posemb/in_3x3_cls"])[None, 1:]
    found = resample_positions(table, (3, 3), (5, 5), mode="bilinear_aligned")
    np.testing.assert_allclose(found[0].numpy(), arrays["posemb/out_5x5_cls"][1:], atol=1e-5)


def test_crop_keeps_the_top_left_corner() -> None:
    table = torch.arange(12.0).reshape(1, 12, 1)  # 3 rows of 4
    found = resample_positions(table, (3, 4), (2, 3), mode="crop")
    assert found.flatten().tolist() == [0, 1, 2, 4, 5, 6]


def test_crop_refuses_to_grow() -> None:
    with pytest.raises(InputSizeError, match="up to 3x4 patches, found 4x4"):
        resample_positions(torch.zeros(1, 12, 1), (3, 4), (4, 4), mode="crop")


@pytest.mark.parametrize("mode", [*PEERS.values(), "crop"])
def test_the_native_grid_is_left_alone(mode: str) -> None:
    table = torch.randn(1, 6, 4)
    assert resample_positions(table, (2, 3), (2, 3), mode=mode) is table


def test_unknown_mode_is_named() -> None:
    with pytest.raises(InputSizeError, match="found 'nearest'"):
        check_position_mode("nearest")
