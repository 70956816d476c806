"""`owlkit make-queries`: words and boxes in, a file of queries out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from owlkit import Predictor, QuerySet
from owlkit.calibration import Calibration
from owlkit.cli import make_queries
from owlkit.cli.command import Command
from owlkit.cli.example_sheet import GIVEN, TAKEN
from owlkit.queries import Combination

Run = Callable[..., int]
MUG = "my mug"
BOX, OTHER = "8,6,60,40", "20,10,70,50"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((90, 60)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "mugs.queries"


@pytest.fixture(scope="module")
def predictor(owlv2_folder: Path) -> Predictor:
    return Predictor.from_pretrained(owlv2_folder, device="cpu")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        pytest.fail("a model is loaded")

    monkeypatch.setattr(Predictor, "from_pretrained", load)


def run(*words: str | Path) -> int:
    command = Command(make_queries.SUMMARY, make_queries.add_arguments, make_queries.run)
    return command.main([str(word) for word in words], program="owlkit make-queries")


def model_words(folder: Path) -> list[str]:
    return ["--model", str(folder), "--device", "cpu"]


@pytest.mark.usefixtures("no_model")
def test_the_file_holds_what_python_would_have_made(photo: Path, out: Path) -> None:
    words = ["--words", "cat, face [nose, eye]", "--templates", "ensemble7"]
    words += ["--text", "cat", "kitten", "--negative-text", MUG, "a bowl"]
    words += ["--example", MUG, photo, BOX, "--example", MUG, photo, "whole"]
    words += ["--negative-example", MUG, photo, OTHER, "--background", "", "--background", "wall"]
    words += ["--threshold", MUG, "0.3", "--colour", "cat", "#ff8800", "--colour", "nose", "navy"]
    words += ["--ensemble", "embeddings", "--combination", "kmeans", "--prototypes", "2"]
    words += ["--text-weight", "0.25", "--choice", "overlap"]
    assert run(*words, out) == 0
    prompts = QuerySet.from_text(["cat", "face", "nose", "eye"], templates="ensemble7").classes
    expected = QuerySet(
        prompts,
        ensemble="embeddings",
        combination=Combination("kmeans", 2, 0.25),
        background=["", "wall"],
        choice="overlap",
    )
    expected.update("nose", parent="face", colour=(0, 0, 128))
    expected.update("eye", parent="face")
    expected.update("cat", colour=(255, 136, 0))
    expected.add_text("cat", ["kitten"], templates="ensemble7")
    expected.add_example(MUG, photo, [8, 6, 60, 40])
    expected.add_example(MUG, photo)
    expected.add_example(MUG, photo, [20, 10, 70, 50], negative=True)
    expected.add_text(MUG, ["a bowl"], templates="ensemble7", negative=True)
    expected.update(MUG, threshold=0.3)
    assert QuerySet.load(out) == expected


def test_with_a_model_the_file_answers_without_one(
    photo: Path,
    out: Path,
    owlv2_folder: Path,
    predictor: Predictor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--words", "cat", "--example", MUG, photo, BOX, "--example", MUG, photo, "whole"]
    words += ["--negative-example", MUG, photo, OTHER, "--background", ""]
    assert run(out, *words, *model_words(owlv2_folder)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{out}: 2 classes, 1 prompt, 2 examples, 1 negative, 1 model's embeddings"
    expected = QuerySet.from_text(["cat"], background=[""])
    expected.add_example(MUG, photo, [8, 6, 60, 40])
    expected.add_example(MUG, photo)
    expected.add_example(MUG, photo, [20, 10, 70, 50], negative=True)
    for line, embedded, start in zip(
        lines[:-1],
        predictor.chosen(expected, MUG),
        (f"{MUG}: {photo} {BOX}", f"{MUG}: {photo} whole", f"not {MUG}: {photo} {OTHER}"),
        strict=True,
    ):
        box = ",".join(f"{number:.0f}" for number in embedded.box)
        overlap = "" if "whole" in start else f", IoU {embedded.iou:.2f}"
        objectness = f", objectness {embedded.objectness:.2f}"
        assert line == f"{start}: took {box}{overlap}{objectness}"
    photo.unlink()
    found = QuerySet.load(out)
    assert found == expected

    def refuse(*_: object) -> None:
        pytest.fail("a network is run")

    monkeypatch.setattr(predictor.backend, "encode_texts", refuse)
    monkeypatch.setattr(predictor.backend, "encode_images", refuse)
    predictor.embed(found)


def test_an_example_that_fills_its_image_is_warned_of(
    photo: Path,
    out: Path,
    owlv2_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("owlkit.queries.encoder._MOST_COVERED", 0)
    assert run(out, "--example", MUG, photo, BOX, *model_words(owlv2_folder)) == 0
    assert "warning: class 'my mug': the example fills its image" in capsys.readouterr().err
    assert out.exists()


def test_a_file_is_extended_and_loses_nothing(
    photo: Path,
    out: Path,
    owlv2_folder: Path,
    predictor: Predictor,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--words", "cat, face [nose]", "--example", MUG, photo, BOX, "--background", ""]
    assert run(out, *words, *model_words(owlv2_folder)) == 0
    before = QuerySet.load(out)
    before.update("cat", threshold=0.2, calibration=Calibration.linear(0.5))
    before.save(out)
    # The same once more changes nothing, and needs no model.
    assert run(out, *words, "--from", out) == 0
    assert QuerySet.load(out) == before
    more, whole = out.with_name("more.queries"), out.with_name("whole.queries")
    additions = ["--words", "cat [ear]", "--example", MUG, photo, OTHER, "--threshold", MUG, "1"]
    assert run(more, "--from", out, *additions, "--combination", "max", "--background", "sky") == 0
    found = QuerySet.load(more)
    assert QuerySet.load(out) == before
    assert found.names == ("cat", "face", "nose", MUG, "ear")
    assert found["cat"] == before["cat"]
    assert (found["ear"].parent, found[MUG].threshold) == ("cat", 1)
    assert found[MUG].examples[0] == before[MUG].examples[0]
    assert found[MUG].examples[1].box == (20, 10, 70, 50)
    assert (found.combination, found.background) == (Combination("max"), ("", "sky"))
    assert found.table(predictor.backend.identity) == before.table(predictor.backend.identity)
    capsys.readouterr()
    assert run(more) == 0
    assert f"model {predictor.backend.identity}: 4 of 6 texts, 1 of 2" in capsys.readouterr().out
    # A copy that needs no other file, and can be given to another model.
    assert run(whole, "--from", more, "--images", "all") == 0
    photo.unlink()
    assert predictor.embed(QuerySet.load(whole)).names == found.names


def test_a_file_is_shown(photo: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queries = QuerySet.from_text(["cat", "two\nlines"], background=["wall"])
    queries.add_example(MUG, photo, [8, 6, 60, 40])
    queries.add_example(MUG, Image.open(photo).convert("RGB"), [20, 10, 70, 50], negative=True)
    isotonic = Calibration.isotonic([0.0, 1.0], [0.1, 0.9])
    queries.update(MUG, threshold=1 / 3, colour=(255, 136, 0), calibration=isotonic, parent="cat")
    out.parent.mkdir()
    queries.save(out)
    assert run(out) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: 3 classes, 2 prompts, 1 example, 1 negative, 0 models' embeddings",
        "  ensemble logits, combination mean with text weight 0.5, choice default",
        "  background: 'wall'",
        "  images of examples: 1 inside, 1 by path or URL, 0 lost",
        "",
        "  prompts  examples  negatives  threshold  calibration  colour   part of  class",
        "  1        0         0          -          -            -        -        cat",
        "  1        0         0          -          -            -        -        'two\\nlines'",
        "  0        1         1          0.3333     isotonic     #ff8800  cat      my mug",
        "",
        "  embedded by no model",
    ]
    assert run(out.with_name("other.queries")) == 1
    assert "expected a query file to show" in capsys.readouterr().err


def test_a_sheet_shows_the_given_and_the_taken_box(
    photo: Path, out: Path, tmp_path: Path, owlv2_folder: Path
) -> None:
    sheet, grey = tmp_path / "sheet.png", tmp_path / "grey.jpg"
    words = ["--example", MUG, photo, BOX, "--example", MUG, photo, "whole"]
    assert run(out, *words, "--sheet", sheet, *model_words(owlv2_folder)) == 0
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    # Two cells of 280 pixels side by side, between gaps of 6.
    assert pixels.shape[1] == 2 * 280 + 3 * 6
    left, right = pixels[:, :289], pixels[:, 289:]
    for cell, colour, is_there in (
        *((left, GIVEN, True), (left, TAKEN, True)),
        *((right, GIVEN, False), (right, TAKEN, True)),
    ):
        # Outlines of boxes of a few dozen pixels; letters and noise have less.
        assert ((cell == colour).all(axis=2).sum() > 100) == is_there
    # The boxes are known where the image is gone, and the model need not see it.
    photo.unlink()
    words = ["--from", out, "--sheet", grey, *model_words(owlv2_folder)]
    assert run(out, *words, "--threshold", MUG, "0.5") == 0
    with Image.open(grey) as picture:
        assert picture.size == (pixels.shape[1], pixels.shape[0])


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--words", "face [nose"], "expected ']'"),
        (["--words", "cat", "--threshold", "cta", "0.3"], "--threshold: expected a class"),
        (["--words", "cat", "--threshold", "cat", "1.5"], "--threshold: class 'cat'"),
        (["--words", "cat", "--threshold", "cat", "much"], "--threshold: class 'cat'"),
        (["--words", "cat", "--colour", "cat", "#ff88001"], "--colour: expected '#rrggbb'"),
        (["--words", "cat", "--colour", "cat", "#ff880011"], "--colour: expected '#rrggbb'"),
        (["--example", MUG, "PHOTO", "1,2,3"], "class 'my mug': expected a box"),
        (["--example", MUG, "PHOTO", "10,20,200,240"], "inside 90x60 pixels"),
        (["--example", MUG, "nowhere.jpg", BOX], "nowhere.jpg"),
        (["--negative-example", MUG, "PHOTO", BOX], "class 'my mug': expected words or an example"),
        (["--background", ""], "expected at least one class"),
        (["--words", "cat", "--prototypes", "3"], "--combination kmeans"),
        (["--words", "cat", "--combination", "kmeans", "--prototypes", "0"], "prototypes"),
        (["--words", "cat", "--text-weight", "2"], "text_weight"),
        (["--example", MUG, "PHOTO", BOX, "--templates", "ensemble7"], "--templates: expected"),
        (["--words", "cat", "--device", "cpu"], "--device: expected together with --model"),
        (["--words", "cat", "--sheet", "sheet.jpg"], "--sheet: expected together with --model"),
        (["--words", "cat", "--model", "m", "--sheet", "s.jpg"], "--sheet: expected examples"),
        (["--words", "cat", "--model", "m", "--sheet", "s.txt"], "--sheet: expected a name"),
        (["--example", MUG, "PHOTO", BOX, "--model", "m", "--sheet", "PHOTO"], "is the image"),
        (["--words", "cat", "--from", "nowhere.queries"], "nowhere.queries: expected a file"),
        (["--words", "cat", "--from", "PHOTO"], "damaged or none"),
    ],
)
def test_what_is_wrong_is_found_before_a_model_is_loaded(
    words: list[str], message: str, photo: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = photo.read_bytes()
    assert run(out, *(str(photo) if word == "PHOTO" else word for word in words)) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()
    assert photo.read_bytes() == before


@pytest.mark.usefixtures("no_model")
def test_no_file_and_no_class_is_replaced_by_mistake(
    photo: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(out, "--words", "face [nose]") == 0
    other = out.with_name("other.queries")
    assert run(other, "--words", "dog") == 0
    before = out.read_bytes()
    for words in (["--words", "dog"], ["--model", "m"], ["--words", "dog", "--from", other]):
        assert run(out, *words) == 1
        assert f"extend it with --from {out}" in capsys.readouterr().err
    assert run(out, "--from", out, "--words", "dog [nose]") == 1
    assert "expected a part of 'face'" in capsys.readouterr().err
    assert run(photo, "--words", "dog") == 1
    assert out.read_bytes() == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["mugs.queries", "other.queries"]


@pytest.mark.usefixtures("no_model")
def test_an_example_that_no_model_could_know_is_refused(
    photo: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(out, "--example", MUG, photo, BOX, "--images", "all") == 0
    photo.unlink()
    assert run(out, "--from", out, "--images", "none") == 1
    assert "use --model or --images memory" in capsys.readouterr().err
    queries = QuerySet.load(out)
    queries.save(out, images="none")
    assert run(out, "--from", out, "--words", "cat") == 1
    assert "use --model or --images memory" in capsys.readouterr().err
    assert run(out, "--from", out, "--words", "cat", "--model", "m") == 1
    assert "class 'my mug': the example's image was not kept" in capsys.readouterr().err
