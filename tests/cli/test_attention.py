"""`owlkit attention`: photographs in, sheets and boxes out."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from owlkit.cli import COMMANDS
from owlkit.evaluation.attention import find_objects, mass_mask, read_attention
from owlkit.images import load_image
from tests.evaluation.small_encoder import make_dual_encoder, make_pictures

Run = Callable[..., int]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("model") / "pair"
    make_dual_encoder(tokenizer_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def run(model: Path) -> Run:
    words = ["--device", "cpu", "--model", str(model)]
    return lambda *more: COMMANDS["attention"].main([*words, *map(str, more)], program="owlkit")


def test_sheets_and_boxes(
    run: Run, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, found = tmp_path / "out", tmp_path / "boxes" / "found.json"
    words = ["--size", "80", "--mass", "0.3", "--boxes", "--json", found, "--out", out]
    assert run(data_dir / "samples", *words) == 0
    content = json.loads(found.read_text())
    sources = sorted((data_dir / "samples").glob("*.jpg"))
    assert list(content) == [str(source) for source in sources]
    assert {path.name for path in out.iterdir()} == {source.name for source in sources}
    pair = make_dual_encoder(None)
    image = load_image(sources[0])
    attention = read_attention(pair.vision, pair.preprocessing, image, size=80)
    mean = attention.mean
    expected = find_objects(mean, mass_mask(mean, 0.3), attention.transform)
    assert len(expected) > 0
    told = content[str(sources[0])]
    assert np.allclose([each["box"] for each in told["boxes"]], expected.boxes, atol=0.01)
    assert np.allclose([each["mass"] for each in told["boxes"]], expected.scores, atol=1e-4)
    assert told["image_size"] == list(image.shape[:2])
    assert (told["grid"], told["heads"]) == ([8, 12], 2)
    assert f"2 heads, 8x12 patches, {len(expected)} boxes" in capsys.readouterr().out
    # The picture, the mean and two heads, each 400 pixels wide.
    assert load_image(out / sources[0].name).shape[1] > 2 * 400


def test_one_image_to_one_file(run: Run, tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)
    plain, smooth = tmp_path / "deep" / "one.png", tmp_path / "two.png"
    assert run(path, "--out", plain) == 0
    assert run(path, "--out", smooth, "--smooth") == 0
    one, two = (load_image(file).astype(int) for file in (plain, smooth))
    assert one.shape == two.shape
    assert (one != two).any()


def test_an_image_that_cannot_be_read_is_skipped(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = make_pictures(tmp_path / "in", 2)
    paths[0].write_bytes(b"no picture")
    assert run(tmp_path / "in", "--out", tmp_path / "out") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1.jpg"]
    said = capsys.readouterr()
    assert "1 images, 1 skipped" in said.out
    assert "skipped" in said.err
    assert "0.png" in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "{}/out", "--mass", "0"], "--mass: expected a share above 0"),
        (["--out", "{}/out", "--size", "0"], "--size: expected a number of pixels"),
        (["--out", "{}/out", "--size", "7"], "expected at least 8, a patch, found 7"),
        (["--out", "{}/out.png"], "--out: expected a folder for 2 images, found the file"),
        (["--out", "{}/in/0.png/out"], "--out: expected a folder to write to"),
        (["--out", "{}/out", "--json", "{}"], "--json: expected a file to write"),
        (["{}/in/0.png", "--out", "{}/in/0.png"], "expected results that replace no source"),
    ],
)
def test_what_is_wrong_is_said(
    run: Run,
    tmp_path: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_pictures(tmp_path / "in", 2)
    words = [word.format(tmp_path) for word in words]
    sources = [] if words[0].endswith(".png") else [tmp_path / "in"]
    assert run(*sources, *words) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out*/*"))
