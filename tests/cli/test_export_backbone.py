"""`owlkit export-backbone`, as a shell would call it."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from transformers import AutoModel

from owlkit import ImageBackbone
from owlkit.cli import main
from tests.models.test_backbone import make_backbone

PIXELS = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def load(layout: str, folder: Path) -> Any:
    if layout == "timm":
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return AutoModel.from_pretrained(folder).eval()


@torch.no_grad()
@pytest.mark.parametrize("layout", ["timm", "transformers"])
def test_others_load_what_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    make_backbone(positions="bicubic_offset").save_pretrained(tmp_path / "own")
    expected = ImageBackbone.from_pretrained(tmp_path / "own")(PIXELS).pooled
    out = tmp_path / "out"
    assert main(["export-backbone", str(tmp_path / "own"), str(out), "--layout", layout]) == 0
    said = capsys.readouterr()
    assert str(out) in said.out
    assert ("note: away from 64 pixels" in said.err) == (layout == "transformers")
    found = load(layout, out)(PIXELS)
    if layout == "transformers":
        found = found.last_hidden_state[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert main(["export-backbone", str(tmp_path / "own"), str(out), "--layout", layout]) == 1
    assert str(out) in capsys.readouterr().err


def test_what_a_layout_cannot_hold_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_backbone(overrides={"stem": "conv"}).save_pretrained(tmp_path / "own")
    words = ["export-backbone", str(tmp_path / "own"), str(tmp_path / "out")]
    assert main([*words, "--layout", "transformers"]) == 1
    assert "expected one convolution, found 'conv'" in capsys.readouterr().err
    assert main(["export-backbone", "/none", str(tmp_path / "out"), "--layout", "timm"]) == 1
    assert "error: /none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
