"""An image backbone comes back from each layout with the same weights and outputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import owlkit
from owlkit import DualEncoder, ImageBackbone
from owlkit.encoders import VisionTower
from owlkit.errors import CheckpointError
from owlkit.evaluation.features import load_encoder
from owlkit.geometry import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 4}


def make_backbone(
    name: str = "vit_small_patch16_224", *, size: int = 64, fit: Any = "crop", **options: Any
) -> ImageBackbone:
    """A small backbone whose every parameter is random, so that a swapped one shows."""
    torch.manual_seed(0)
    overrides = {**SMALL, **options.pop("overrides", {})}
    tower = VisionTower(name, image_size=size, overrides=overrides, **options)
    for key, parameter in tower.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in key and key.endswith("weight")), std=0.1)
    preprocessing = Preprocessing(
        size=(size, size), fit=fit, resample="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    return ImageBackbone(tower, preprocessing).eval()


@torch.no_grad()
def test_comes_back_equal(tmp_path: Path) -> None:
    model = make_backbone(mask_token=True, uniform_drop_path=True, drop_path=0.2)
    model.save_pretrained(tmp_path)
    back = owlkit.ImageBackbone.from_pretrained(tmp_path)
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in model.state_dict().items())
    assert (back.architecture, back.preprocessing) == (model.architecture, model.preprocessing)
    assert not back.training
    pixels = torch.randn(2, 3, 64, 64)
    assert torch.equal(back(pixels).pooled, model(pixels).pooled)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "model.safetensors",
        "owlkit.json",
    ]
    assert "ImageBackbone.from_pretrained" in (tmp_path / "README.md").read_text()


@torch.no_grad()
def test_other_loaders_take_the_folder(tmp_path: Path) -> None:
    model = make_backbone()
    model.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 64, 64)
    tower, preprocessing = load_encoder(tmp_path)
    assert isinstance(tower, VisionTower)
    assert preprocessing == model.preprocessing
    assert torch.equal(tower(pixels).tokens, model(pixels).tokens)
    with pytest.raises(CheckpointError, match="expected dual_encoder, found 'backbone'"):
        DualEncoder.from_pretrained(tmp_path)


def test_the_tower_of_a_detector_loads(owlv2_folder: Path, tmp_path: Path) -> None:
    detector = owlkit.OwlDetector.from_pretrained(owlv2_folder)
    detector.save_pretrained(tmp_path)
    back = ImageBackbone.from_pretrained(tmp_path)
    assert back.preprocessing == detector.preprocessing
    expected = detector.vision.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in back.vision.state_dict().items())
