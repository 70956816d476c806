"""`owlkit export`, as a shell would call it."""

import json
from pathlib import Path

import pytest

from owlkit import OwlDetector
from owlkit.cli import export
from owlkit.cli.command import Command
from owlkit.models.identity import detector_identity

COMMAND = Command(export.SUMMARY, export.add_arguments, export.run, extra="export")


def test_a_folder_and_its_table(
    tmp_path: Path, owlvit_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--sizes", "64", "64x96", "--fused", "--attention"]
    assert COMMAND.main([str(owlvit_folder), str(out), *words]) == 0
    said = capsys.readouterr()
    assert "| image_encoder_64x96.onnx | logits |" in said.out
    assert said.err == ""
    manifest = json.loads((out / "owlkit.json").read_text())
    assert manifest["identity"] == detector_identity(OwlDetector.from_pretrained(owlvit_folder))
    assert manifest["graphs"]["detector"]["file"] == "detector.onnx"
    assert {path.name for path in out.iterdir()} == {
        "owlkit.json",
        "README.md",
        "tokenizer",
        "image_encoder.onnx",
        "image_encoder_64x96.onnx",
        "text_encoder.onnx",
        "detector.onnx",
        "attention.onnx",
    }


def test_above_the_tolerance_nothing_is_written(
    tmp_path: Path, owlvit_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(owlvit_folder), str(tmp_path / "out"), "--tolerance", "1e-12", "1e-12"]
    assert COMMAND.main(words) == 1
    assert "expected graphs that agree with the model, found\n|" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--annotations", "a.json"], "--annotations and --images together"),
        (["--int8", "static"], "--calibration-images, found none"),
        (["--tolerance", "0", "1"], "expected positive numbers"),
        (["--calibration-images", "/none"], "--calibration-images: expected a folder"),
        ([], "/nowhere: no such folder"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert COMMAND.main(["/nowhere", str(tmp_path / "out"), *words]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_size_is_one_number_or_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        COMMAND.main(["/nowhere", str(tmp_path / "out"), "--sizes", "64x"])
    assert "expected 768 or 512x640, found '64x'" in capsys.readouterr().err
