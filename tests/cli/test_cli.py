"""The commands, as a shell would call them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from owlkit import OwlDetector, Predictor
from owlkit.cli import main

CONFIGS = Path(__file__).parent.parent.parent / "configs"


@pytest.fixture
def photo_folder(tmp_path: Path, data_dir: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, place in (("dog", "dog.jpg"), ("frog", "more/dog.jpg")):
        with Image.open(data_dir / "samples" / f"{name}.jpg") as picture:
            picture.convert("RGB").resize((160, 120)).save(folder / place)
    return folder


def test_detect_writes_pictures_and_one_json(
    owlv2_folder: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--model", str(owlv2_folder), "--out", str(out), "--threshold", "0.3"]
    status = main(["detect", str(photo_folder), "--queries", "a dog, a red mug", *options])
    assert status == 0
    written = json.loads((out / "detections.json").read_text())
    images = [str(photo_folder / "dog.jpg"), str(photo_folder / "more" / "dog.jpg")]
    assert list(written) == images
    predictor = Predictor.from_pretrained(owlv2_folder, device="cpu")
    for image, name in zip(images, ("dog.jpg", "dog-2.jpg"), strict=True):
        expected = predictor.detect(
            image, ["a dog", "a red mug"], threshold=0.3, nms_iou=0.5, top_k=300
        )
        assert written[image] == expected.to_list()
        assert len(expected) > 0
        with Image.open(out / name) as picture:
            assert picture.size == (160, 120)
            assert np.abs(np.asarray(picture) - np.asarray(Image.open(image))).max() > 50
    assert "2 images, 0 unreadable" in capsys.readouterr().out


def test_detect_goes_on_after_an_unreadable_image(
    owlv2_folder: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photo_folder / "broken.jpg").write_bytes(b"no image")
    options = ["--model", str(owlv2_folder), "--out", str(tmp_path / "out")]
    assert main(["detect", str(photo_folder), "--queries", "dog", *options]) == 1
    captured = capsys.readouterr()
    assert "broken.jpg" in captured.err
    assert "2 images, 1 unreadable" in captured.out
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--queries", " , ", "--model", "x/y"], "expected words", id="no words"),
        pytest.param(["--queries", "cat", "--model", "./none"], "no such folder", id="no model"),
    ],
)
def test_mistakes_give_one_line_and_status_1(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", "photo.jpg", *words, "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr().err
    assert captured.startswith("error: ")
    assert message in captured
    assert "Traceback" not in captured


def test_make_detector_writes_a_folder_that_loads(
    tokenizer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = str(CONFIGS / "owl_tiny.yaml"), tmp_path / "made"
    overrides = [f"model.text.tokenizer={tokenizer_folder}", "model.text.vocab_size=300"]
    assert main(["make-detector", config, overrides[0], str(out), overrides[1]]) == 0
    assert OwlDetector.from_pretrained(out).preprocessing.size == (64, 64)
    assert "M parameters" in capsys.readouterr().out


def test_make_detector_prints_a_config_that_gives_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["make-detector", "--print-config", "model.heads.objectness=true"]
    assert main([*words, str(CONFIGS / "owl_tiny.yaml")]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(printed)
    assert main(["make-detector", str(tmp_path / "again.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    assert "objectness: true" in printed


def test_make_detector_explains_its_fields_and_faults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["make-detector", "--list-fields"]) == 0
    assert "model.vision.image_size" in capsys.readouterr().out
    tiny = str(CONFIGS / "owl_tiny.yaml")
    assert main(["make-detector", tiny, "out", "model.vision.nmae=x", "seed=-1"]) == 1
    captured = capsys.readouterr().err
    assert "did you mean name" in captured
    assert "seed" in captured


def test_unknown_commands_list_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detetc"]) == 2
    assert "detect" in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert main([]) == 0
