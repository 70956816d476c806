"""`owlkit find`: a folder and a box or words, in; boxes, a sheet and JSON, out."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from owlkit import Predictor, QuerySet
from owlkit.cli import find
from owlkit.cli.command import Command
from owlkit.images import load_image

Run = Callable[..., int]
BOX = "8,6,60,40"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for number, name in enumerate(["0.png", "1.png", "more/0.png", "more/1.png"]):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (6, 8 + number, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((80 + 10 * number, 60)).save(path)
    return tmp_path / "images"


@pytest.fixture
def run(owlv2_folder: Path) -> Run:
    command = Command(find.SUMMARY, find.add_arguments, find.run)

    def run(*words: str | Path, model: Path = owlv2_folder) -> int:
        given = ["--model", model, "--device", "cpu", *words]
        return command.main([str(word) for word in given], program="owlkit find")

    return run


@pytest.fixture(scope="module")
def predictor(owlv2_folder: Path) -> Predictor:
    return Predictor.from_pretrained(owlv2_folder, device="cpu")


def best_scores(predictor: Predictor, folder: Path, queries: QuerySet) -> dict[str, float]:
    """The best score of each image, found by detecting in it."""
    return {
        str(path): float(predictor.detect(path, queries, threshold=0.0).scores.max())
        for path in folder.rglob("*.png")
    }


def test_a_box_is_found_where_detecting_finds_it(
    run: Run,
    folder: Path,
    tmp_path: Path,
    predictor: Predictor,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo, results = folder / "more" / "0.png", tmp_path / "deep" / "hits.json"
    words = [folder, "--like", photo, "--box", BOX, "--json", results]
    assert run(*words) == 0
    printed = capsys.readouterr()
    assert "index: 0 images kept, 4 encoded, 0 dropped" in printed.err
    queries = QuerySet()
    queries.add_example("like", photo, [[8, 6, 60, 40]])
    (chosen,) = predictor.chosen(queries, "like")
    place = ",".join(f"{number:.0f}" for number in chosen.box)
    assert f"looking for what is at {place} of {photo} (IoU {chosen.iou:.2f})" in printed.err
    expected = best_scores(predictor, folder, queries)
    found = json.loads(results.read_text())
    assert found["unreadable"] == []
    np.testing.assert_allclose(found["like"]["box"], chosen.box, rtol=1e-6)
    scores = [hit["score"] for hit in found["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert len(printed.out.splitlines()) == len(scores) == 4
    for hit, line in zip(found["hits"], printed.out.splitlines(), strict=True):
        assert hit["score"] == pytest.approx(expected[hit["path"]], abs=1e-5)
        assert line.startswith(f"{hit['score']:.4f}  {hit['path']}  ")
    assert run(*words, "--top", "2", "--per-image", "2") == 0
    printed = capsys.readouterr()
    assert "index: 4 images kept, 0 encoded, 0 dropped" in printed.err
    assert len(printed.out.splitlines()) == 2


def test_words_a_saved_file_and_a_whole_image(
    run: Run,
    folder: Path,
    tmp_path: Path,
    predictor: Predictor,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "1.png").write_bytes(b"no picture")
    index = tmp_path / "deep" / "index"
    assert run(folder, "--queries", "a cat, a red mug", "--index", index) == 0
    words = capsys.readouterr()
    assert f"skipped {folder / '1.png'}: cannot be read" in words.err
    (folder / "1.png").unlink()
    queries = QuerySet.from_text(["a cat", "a red mug"])
    for line in words.out.splitlines():
        score, path, _, name = line.split("  ")
        found = predictor.detect(path, queries, threshold=0.0)
        assert float(score) == pytest.approx(float(found.scores[0]), abs=1e-4)
        assert name == found.names[0]
    assert len(words.out.splitlines()) == 3
    predictor.embed(queries).save(tmp_path / "both.queries")
    assert run(folder, "--queries", tmp_path / "both.queries", "--index", index) == 0
    assert capsys.readouterr().out == words.out
    assert index.is_dir()
    assert not (folder / find._INDEX).exists()
    assert run(folder, "--like", folder / "0.png", "--index", index) == 0
    printed = capsys.readouterr()
    assert "looking for what is at" in printed.err
    assert len(printed.out.splitlines()) == 3


def test_a_threshold_and_a_calibration_hold(
    run: Run,
    folder: Path,
    tmp_path: Path,
    predictor: Predictor,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from owlkit.calibration import Calibration

    queries = QuerySet.from_text(["an owl"])
    queries.update("an owl", calibration=Calibration.linear(0.5, 1.0))
    predictor.embed(queries).save(tmp_path / "owl.queries")
    expected = best_scores(predictor, folder, queries)
    limit = sorted(expected.values())[1]
    words = ["--queries", tmp_path / "owl.queries", "--threshold", str(limit + 1e-6)]
    assert run(folder, *words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        score, path, *_ = line.split("  ")
        assert float(score) == pytest.approx(expected[path], abs=1e-4)


def test_a_sheet_shows_the_boxes_and_is_no_image_to_find(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = folder / "sheet.png"
    for _ in range(2):
        assert run(folder, "--queries", "an owl", "--out", sheet) == 0
        assert len(capsys.readouterr().out.splitlines()) == 4
    with Image.open(sheet) as picture:
        frames = (np.asarray(picture.convert("RGB")) == find._FRAME).all(axis=2).sum()
    assert frames > 4 * 2 * find._CELL / 3


def test_nothing_found_is_said(
    run: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    assert run(folder, "--queries", "an owl", "--threshold", "1", "--out", sheet) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"nothing found; {sheet} is not written" in captured.err
    assert not sheet.exists()


def test_a_close_up_keeps_the_box_in_its_middle(tmp_path: Path) -> None:
    image = np.zeros((60, 200, 3), np.uint8)
    image[20:40, 150:190] = 0, 255, 0
    Image.fromarray(image).save(tmp_path / "a.png")
    for box in ((150, 20, 190, 40), (0, 0, 0.01, 60), (-3, 10, 300, 50)):
        shown = find.close_up(load_image(tmp_path / "a.png"), box)
        assert shown.size == (find._CELL, find._CELL)
    shown = find.close_up(image, (150, 20, 190, 40))
    rows, columns = np.nonzero((np.asarray(shown) == find._FRAME).all(axis=2))
    side = find._CELL / find._SURROUNDINGS
    assert np.ptp(columns) == pytest.approx(side, abs=1.5)
    assert np.ptp(rows) == pytest.approx(side / 2, abs=1.5)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(find._CELL / 2, abs=1)
    assert np.asarray(shown)[find._CELL // 2, find._CELL // 2].tolist() == [0, 255, 0]


def test_an_index_of_another_model_stops(
    run: Run, folder: Path, owlvit_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--queries", "an owl") == 0
    assert run(folder, "--queries", "an owl", model=owlvit_folder) == 1
    assert "expected an index of this model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--queries", "an owl", "--top", "0"], "--top: expected at least 1, found 0"),
        (["--queries", "an owl", "--per-image", "0"], "--per-image: expected at least 1"),
        (["--queries", "an owl", "--batch-size", "0"], "--batch-size: expected at least 1"),
        (["--queries", "an owl", "--threshold", "2"], "--threshold: expected a number in [0, 1]"),
        (["--queries", "an owl", "--box", BOX], "--box: expected together with --like"),
        (["--queries", "face [nose]"], "--queries: expected no parts of other things"),
        (["--queries", " , "], "--queries: expected words"),
        (["--queries", "an owl", "--out", "a.webp"], "--out: expected a name that ends in .jpg"),
        (["--queries", "an owl", "--json", "."], "--json: expected a file to write"),
        (["--like", "absent.jpg"], "absent.jpg"),
        (["--like", "{folder}/0.png", "--box", "1,2,3"], "--box: expected x0,y0,x1,y1 in pixels"),
        (["--like", "{folder}/0.png", "--box", "9,9,1,1"], "expected a box"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(
    run: Run,
    folder: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [word.format(folder=folder) for word in words]
    assert run(folder, *given, model=folder / "no model") == 1
    assert message in capsys.readouterr().err
    assert not (folder / find._INDEX).exists()


def test_no_folder_and_no_images(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "absent", "--queries", "an owl") == 1
    assert "absent: expected a folder of images, found none" in capsys.readouterr().err
    assert run(tmp_path, "--queries", "an owl") == 1
    assert "expected images, found none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(tmp_path)
