"""`owlkit search`: a folder and a sentence or an image, in; ranked paths, out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from owlkit.cli import search
from owlkit.cli.command import Command
from owlkit.evaluation.features import Encoder
from tests.evaluation.small_encoder import make_dual_encoder, make_pictures

Run = Callable[..., int]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("model") / "pair"
    make_dual_encoder(tokenizer_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "images", 3)
    make_pictures(tmp_path / "images" / "more", 3, seed=10)
    return tmp_path / "images"


@pytest.fixture
def run(model: Path) -> Run:
    command = Command(search.SUMMARY, search.add_arguments, search.run)

    def run(*words: str | Path, model: Path = model) -> int:
        given = ["--model", model, "--device", "cpu", *words]
        return command.main([str(word) for word in given], program="owlkit search")

    return run


def test_an_image_finds_itself(
    run: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "deep" / "results.json"
    words = [folder, "--image", folder / "more" / "1.png", "--top", "4", "--json", results]
    assert run(*words) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert len(lines) == 4
    assert lines[0] == f"1.0000  {folder / 'more' / '1.png'}"
    assert "0 images kept, 6 encoded, 0 dropped" in printed.err
    found = json.loads(results.read_text())
    assert [f"{one['score']:.4f}  {one['path']}" for one in found["results"]] == lines
    assert run(*words) == 0
    assert "6 images kept, 0 encoded, 0 dropped" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir() if path.is_file()].count(search._INDEX) == 1


def test_a_sentence_and_a_file_for_the_index(
    run: Run,
    folder: Path,
    tmp_path: Path,
    tokenizer_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "2.png").write_bytes(b"no picture")
    index = tmp_path / "index" / "file"
    assert run(folder, "--query", "a cat on a table", "--index", index) == 0
    printed = capsys.readouterr()
    encoder = Encoder(make_dual_encoder(tokenizer_folder))
    sentence = encoder.texts(["a cat on a table"])[0]
    for line in printed.out.splitlines():
        score, path = line.split("  ")
        with Image.open(path) as picture:
            vector = encoder.image(search.load_image(picture))
        assert float(score) == pytest.approx(float(vector @ sentence), abs=1e-4)
    assert len(printed.out.splitlines()) == 5
    assert f"skipped {folder / '2.png'}: cannot be read" in printed.err
    assert index.is_file()
    assert not (folder / search._INDEX).exists()


def test_a_sheet_of_the_best_is_no_image_to_find(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = folder / "sheet.png"
    for _ in range(2):
        assert run(folder, "--query", "an owl", "--out", sheet) == 0
        assert len(capsys.readouterr().out.splitlines()) == 6
    with Image.open(sheet) as picture:
        assert picture.size == (5 * 240, 2 * (240 + 18))
        colours = picture.convert("RGB").crop((0, 258, 240, 498)).getcolors(10**6)
        assert colours is not None
        assert len(colours) > 100, "the sixth image is not there"


def test_an_index_of_another_model_stops(
    run: Run,
    folder: Path,
    tmp_path: Path,
    tokenizer_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_dual_encoder(tokenizer_folder, seed=1).save_pretrained(tmp_path / "other")
    assert run(folder, "--query", "an owl") == 0
    assert run(folder, "--query", "an owl", model=tmp_path / "other") == 1
    assert "expected an index of this model" in capsys.readouterr().err


def test_a_strip_is_shown_on_a_sheet(tmp_path: Path) -> None:
    for size in ((2000, 2), (2, 2000)):
        Image.new("RGB", size, "red").save(tmp_path / "strip.png")
        sheet = search.draw_sheet([(tmp_path / "strip.png", "")])
        red = sum(n for n, colour in sheet.getcolors() or () if colour == (255, 0, 0))
        assert red == 232


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--query", "an owl", "--top", "0"], "--top: expected at least 1, found 0"),
        (["--query", "an owl", "--out", "a.webp"], "--out: expected a name that ends in .jpg"),
        (["--query", "an owl", "--json", "."], "--json: expected a file to write"),
        (["--query", "an owl", "--index", "."], "--index: expected a file to write"),
        (["--query", "an owl", "--batch-size", "0"], "batch size of at least 1"),
        (["--image", "absent.jpg"], "absent.jpg: expected an image file"),
        (["--query", "an owl", "--device", "abacus"], "device: expected one of this machine"),
    ],
)
def test_what_is_wrong_is_said(
    run: Run, folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *words) == 1
    assert message in capsys.readouterr().err
    assert not (folder / search._INDEX).exists()


def test_no_folder_and_no_images(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "absent", "--query", "an owl") == 1
    assert "absent: expected a folder of images, found none" in capsys.readouterr().err
    assert run(tmp_path, "--query", "an owl") == 1
    assert "expected images, found none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(tmp_path)
