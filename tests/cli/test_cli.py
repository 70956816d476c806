"""The commands, as a shell would call them."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from owlkit import OwlDetector, Predictor, QuerySet, images
from owlkit.cli import files, main
from owlkit.images import load_image
from owlkit.tiling import Tiling

CONFIGS = Path(__file__).parent.parent.parent / "configs"


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """Two images of one name."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for seed, place in enumerate(("dog.jpg", "more/dog.jpg")):
        save_image(folder / place, seed)
    return folder


def save_image(path: Path, seed: int = 0, size: tuple[int, int] = (160, 120)) -> Path:
    """Saves coloured blobs."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size).save(path)
    return path


class DetectCommand:
    """`owlkit detect` with a model, and what it wrote."""

    def __init__(self, model: Path, out: Path) -> None:
        self.model, self.out = model, out

    def __call__(self, *words: str | Path) -> int:
        options = ["--queries", "a dog, a red mug", "--model", self.model, "--out", self.out]
        return main(["detect", *map(str, options), *map(str, words)])

    @property
    def results(self) -> dict[str, Any]:
        """Content of `detections.json`."""
        content: dict[str, Any] = json.loads((self.out / "detections.json").read_bytes())
        return content

    @property
    def files(self) -> list[str]:
        """Everything in the folder of the results."""
        return sorted(path.name for path in self.out.iterdir())


@pytest.fixture
def detect(owlv2_folder: Path, tmp_path: Path) -> DetectCommand:
    return DetectCommand(owlv2_folder, tmp_path / "out")


@pytest.fixture
def without_model(detect: DetectCommand, monkeypatch: pytest.MonkeyPatch) -> DetectCommand:
    """For mistakes that must be found before a model is loaded."""
    monkeypatch.setattr(
        Predictor, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded")
    )
    return detect


def test_detect_writes_pictures_and_one_json(
    detect: DetectCommand, photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect(photo_folder, "--threshold", "0.3") == 0
    images = [str(photo_folder / "dog.jpg"), str(photo_folder / "more" / "dog.jpg")]
    assert list(detect.results) == images
    predictor = Predictor.from_pretrained(detect.model, device="cpu")
    for image, name in zip(images, ("dog.jpg", "dog-2.jpg"), strict=True):
        expected = predictor.detect(
            image, ["a dog", "a red mug"], threshold=0.3, nms_iou=0.5, top_k=300
        )
        assert detect.results[image] == expected.to_list()
        assert len(expected) > 0
        drawn, plain = load_image(detect.out / name), load_image(image)
        assert drawn.shape == plain.shape
        assert np.abs(drawn.astype(int) - plain).max() > 50
    assert "2 images, 0 skipped" in capsys.readouterr().out
    assert detect.files == ["detections.json", "dog-2.jpg", "dog.jpg"]
    plain_file = photo_folder / "plain"
    plain_file.touch()
    for path in detect.out.iterdir():
        assert path.stat().st_mode == plain_file.stat().st_mode, "the user's usual permissions"


def test_detect_goes_on_after_an_unreadable_image(
    detect: DetectCommand, photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photo_folder / "broken.jpg").write_bytes(b"no image")
    assert detect(photo_folder) == 1
    captured = capsys.readouterr()
    assert captured.err.count("broken.jpg") == 1
    assert "2 images, 1 skipped" in captured.out
    assert len(detect.results) == 2


def test_a_picture_that_cannot_be_saved_keeps_its_detections(
    detect: DetectCommand, photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = save_image(photo_folder / "long.png", size=(70_000, 2))  # JPEG ends at 65,535
    assert detect(photo_folder, "--threshold", "0") == 1
    captured = capsys.readouterr()
    assert f"skipped {long}: " in captured.err
    assert "3 images, 1 skipped" in captured.out
    # Of so flat an image all boxes of this model lie in the padding.
    assert detect.results[str(long)] == []
    assert detect.files == ["detections.json", "dog-2.jpg", "dog.jpg"], "nothing half-written"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_found_before_an_interrupt_is_kept(
    detect: DetectCommand,
    monkeypatch: pytest.MonkeyPatch,
    photo_folder: Path,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    load, before = images._load_file, signal.getsignal(signal.SIGTERM)
    # A shell's background jobs ignore Ctrl-C.
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(source: Any, *rest: Any) -> Any:
        if "more" in str(source):
            signal.raise_signal(number)
        return load(source, *rest)

    monkeypatch.setattr(images, "_load_file", interrupted)
    try:
        assert detect(photo_folder) == 130
    finally:
        signal.signal(signal.SIGINT, ctrl_c)
    assert signal.getsignal(signal.SIGTERM) == before
    assert capsys.readouterr().err == "interrupted\n"
    assert list(detect.results) == [str(photo_folder / "dog.jpg")]


def test_each_image_is_loaded_once(
    detect: DetectCommand, monkeypatch: pytest.MonkeyPatch, photo_folder: Path
) -> None:
    opened = []
    load_file = images._load_file

    def counting(source: Any, *arguments: Any) -> Any:
        opened.append(str(source))
        return load_file(source, *arguments)

    monkeypatch.setattr(images, "_load_file", counting)
    assert detect(photo_folder) == 0
    assert len(opened) == len(set(opened)) == 2


def test_results_in_the_folder_of_the_images_are_no_images(
    detect: DetectCommand, photo_folder: Path
) -> None:
    detect.out = photo_folder / "found"
    for _ in range(2):
        assert detect(photo_folder) == 0
        assert len(detect.results) == 2


def test_an_image_named_twice_counts_once(detect: DetectCommand, photo_folder: Path) -> None:
    dog = photo_folder / "dog.jpg"
    again = photo_folder / "more" / ".." / "dog.jpg"
    assert detect(dog, photo_folder / "more", dog, again) == 0
    assert list(detect.results) == [str(dog), str(photo_folder / "more" / "dog.jpg")]


@pytest.mark.parametrize("link", [False, True])
def test_a_picture_never_replaces_a_source(
    without_model: DetectCommand,
    photo_folder: Path,
    capsys: pytest.CaptureFixture[str],
    link: bool,
) -> None:
    dog = photo_folder / "dog.jpg"
    content = dog.read_bytes()
    without_model.out = photo_folder
    if link:
        without_model.out = photo_folder / "linked"
        without_model.out.symlink_to(photo_folder)
    assert without_model(dog) == 1
    assert "choose another folder" in capsys.readouterr().err
    assert dog.read_bytes() == content


def test_no_images_is_an_error(
    without_model: DetectCommand, photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photo_folder / "empty").mkdir()
    assert without_model(photo_folder / "empty") == 1
    assert "expected images, found none" in capsys.readouterr().err
    assert not without_model.out.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow only text")
def test_a_file_name_that_is_no_text_keeps_all_results(
    detect: DetectCommand, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = os.fsdecode(os.fsencode(photo_folder) + b"/caf\xe9 \xe2\x82\xac.png")
    save_image(photo_folder / "odd.png").rename(odd)
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", printed)
    assert detect(odd, photo_folder) == 0
    printed.flush()
    assert rb"caf\udce9" in printed.buffer.getvalue()
    assert next(iter(detect.results)) == odd
    assert len(detect.results) == 3
    assert "caf €.jpg" in detect.files


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("photos/dog.png", "dog.jpg"),
        ("..", "image.jpg"),
        (".hidden.png", "hidden.jpg"),
        ("what?.png", "what_.jpg"),
        ("https://example.org/cat.jpg?token=../secret#x/y.png", "cat.jpg"),
        ("https://example.org/..", "image.jpg"),
        ("a" * 300 + ".png", "a" * 100 + ".jpg"),
        ("猫" * 80 + ".png", "猫" * 33 + ".jpg"),
        ("caf\udce9.png", "caf.jpg"),
    ],
)
def test_picture_names(source: str, name: str) -> None:
    assert files.picture_names([source]) == {source: name}


def test_picture_names_differ_on_every_file_system() -> None:
    names = files.picture_names(["a/dog.png", "b/Dog.png", "c/dog-2.png", "d/dog.gif"])
    assert list(names.values()) == ["dog.jpg", "Dog-2.jpg", "dog-2-2.jpg", "dog-3.jpg"]


def test_a_long_url_is_a_source() -> None:
    url = "https://example.org/" + "a" * 5000
    assert files.find_sources([url, url], Path("out")) == [url]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_font_can_be_chosen(detect: DetectCommand, photo_folder: Path, tmp_path: Path) -> None:
    font = tmp_path / "font.ttf"
    font.write_bytes(ImageFont.load_default(10).font_bytes)  # type: ignore[union-attr]
    assert detect(photo_folder, "--font", font) == 0


def test_a_saved_query_set_brings_its_thresholds_and_colours(
    detect: DetectCommand, photo_folder: Path, tmp_path: Path
) -> None:
    predictor = Predictor.from_pretrained(detect.model, device="cpu")
    queries = QuerySet.from_text(["a dog", "a red mug"])
    queries.update("a dog", threshold=0.0, colour=(255, 0, 255))
    queries.update("a red mug", threshold=1.0)
    predictor.embed(queries).save(tmp_path / "a.queries")
    photo = photo_folder / "dog.jpg"
    assert detect(photo, "--queries", tmp_path / "a.queries") == 0
    expected = predictor.detect(str(photo), queries, nms_iou=0.5, top_k=300)
    assert set(expected.names) == {"a dog"}
    assert detect.results[str(photo)] == expected.to_list()
    drawn = load_image(detect.out / "dog.jpg").astype(int)
    assert (np.abs(drawn - (255, 0, 255)).max(axis=2) < 40).any()


def test_detect_looks_at_tiles_and_fuses_boxes(detect: DetectCommand, photo_folder: Path) -> None:
    photo = str(photo_folder / "dog.jpg")
    words = ["--tile", "80", "--tile-overlap", "0.5", "--box-fusion", "--exclusive"]
    assert detect(photo, *words, "--threshold", "0.3") == 0
    expected = Predictor.from_pretrained(detect.model, device="cpu").detect(
        photo,
        ["a dog", "a red mug"],
        threshold=0.3,
        nms_iou=0.5,
        top_k=300,
        tiles=Tiling(80, overlap=0.5),
        box_fusion=True,
        one_label_per_box=True,
    )
    assert len(expected) > 0
    assert detect.results[photo] == expected.to_list()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--font", "none.ttf"], "found none.ttf"),
        (["--threshold", "2"], r"threshold in [0, 1], found 2"),
        (["--nms-iou", "2"], "nms_iou in [0, 1] or None, found 2"),
        (["--top-k", "0"], "top_k"),
        (["--box-fusion", "--soft-nms", "linear"], "soft_nms"),
        (["--tile", "large"], "--tile: expected a number of pixels"),
        (["--tile", "64", "--tile-overlap", "1"], "overlap in [0, 0.9], found 1"),
        (["--every", "0"], "--every: expected at least 1"),
        (["--max-frames", "-1"], "--max-frames: expected at least 1"),
        (["--batch-size", "0"], "--batch-size: expected at least 1"),
    ],
)
def test_wrong_options_are_found_before_the_model_is_loaded(
    without_model: DetectCommand,
    photo_folder: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert without_model(photo_folder, *words) == 1
    assert message in capsys.readouterr().err


def test_a_file_where_a_folder_is_due_gives_one_line(
    detect: DetectCommand, photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detect.out.write_text("in the way")
    assert detect(photo_folder) == 1
    captured = capsys.readouterr().err
    assert captured.startswith("error: --out: expected a folder to write to")
    assert str(detect.out) in captured
    assert captured.count("\n") == 1


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
    assert not (tmp_path / "out").exists()


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


def test_the_package_runs_as_a_module() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "owlkit", "nothing"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("owlkit: no command 'nothing'\nusage: owlkit COMMAND")
