"""`owlkit evaluate`: a model or a file of results, in; numbers, tables and pictures, out."""

import json
from pathlib import Path

import pytest

from owlkit import OwlDetector
from owlkit.cli import main
from owlkit.evaluation import evaluate_boxes
from owlkit.evaluation.predictions import PredictionSettings, predict_results
from tests.evaluation.small_set import (
    CATEGORY_IDS,
    NAMES,
    coco_content,
    make_records,
    perfect_results,
    write_coco,
)


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "boxes.json", make_records(tmp_path / "images"))


def evaluate(*words: str | Path) -> int:
    return main(["evaluate", *map(str, words)])


def test_a_model_is_run_and_measured(
    owlv2_folder: Path, annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out"
    words = ["--annotations", annotations, "--images", tmp_path / "images", "--templates", "none"]
    words += ["--top-k", "40", "--samples", "2", "--device", "cpu", "--batch-size", "3"]
    assert evaluate(owlv2_folder, *words, "--out", out, "--json", tmp_path / "a" / "m.json") == 0
    records = make_records(tmp_path / "images")
    expected = predict_results(
        OwlDetector.from_pretrained(owlv2_folder).eval(),
        records,
        NAMES,
        CATEGORY_IDS,
        settings=PredictionSettings(templates="none", top_k=40, batch_size=3),
    ).results
    found = json.loads((out / "results.json").read_text())
    assert found == expected
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == evaluate_boxes(coco_content(records), found)
    assert json.loads((tmp_path / "a" / "m.json").read_text()) == metrics
    assert sorted(path.name for path in out.iterdir()) == [
        *("metrics.json", "precision_recall.png", "report.txt", "results.json", "samples")
    ]
    assert sorted(path.name for path in (out / "samples").iterdir()) == ["100.jpg", "101.jpg"]
    printed = capsys.readouterr().out
    assert (out / "report.txt").read_text() in printed
    assert "5 images, templates none, top 40, no NMS" in printed
    assert f"AR100   {metrics['AR100']:.4f}" in printed


def test_a_part_of_the_images(owlv2_folder: Path, annotations: Path, tmp_path: Path) -> None:
    words = ["--annotations", annotations, "--images", tmp_path / "images", "--templates", "none"]
    words += ["--max-images", "3", "--nms-iou", "0.5", "--out", tmp_path / "out", "--device", "cpu"]
    assert evaluate(owlv2_folder, *words) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {result["image_id"] for result in results} == {100, 101, 102}
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    content = coco_content(make_records(tmp_path / "images"))
    assert metrics == evaluate_boxes(content, results, image_ids=[100, 101, 102])
    assert "NMS at IoU 0.5" in (tmp_path / "out" / "report.txt").read_text()


def test_results_need_no_model(
    annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, split = tmp_path / "results.json", tmp_path / "split.json"
    file.write_text(json.dumps(perfect_results(json.loads(annotations.read_text()))))
    split.write_text(json.dumps({"base": ["cat", "owl"], "novel": ["red mug"]}))
    out = tmp_path / "out"
    assert evaluate(file, "--annotations", annotations, "--split", split, "--out", out) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["AP_base"] == metrics["AP_novel"] == pytest.approx(1)
    assert "results as given" in capsys.readouterr().out
    assert not (out / "samples").exists()


def test_names_as_written_and_a_file_that_cannot_be_read(
    owlv2_folder: Path, annotations: Path, tmp_path: Path
) -> None:
    content = json.loads(annotations.read_text())
    content["categories"][0]["name"] = "CAT!"
    annotations.write_text(json.dumps(content))
    broken = tmp_path / "images" / "4.png"
    broken.write_bytes(broken.read_bytes()[:200])  # the header says that all is well
    words = ["--annotations", annotations, "--images", tmp_path / "images", "--templates", "none"]
    found = []
    for more in ([], ["--as-written"]):
        out = tmp_path / f"out{len(more)}"
        assert evaluate(owlv2_folder, *words, *more, "--device", "cpu", "--out", out) == 0
        found.append(json.loads((out / "results.json").read_text()))
        settings = (out / "report.txt").read_text().splitlines()[1]
        assert ("names as written" in settings) == bool(more)
        assert settings.endswith("; nothing found in 1 that cannot be read")
    assert {entry["image_id"] for entry in found[0]} == {100, 101, 102, 103}
    assert found[0] != found[1]


def test_a_header_that_disagrees_is_found_before_the_model_runs(
    owlv2_folder: Path, annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(annotations.read_text())
    content["images"][0]["width"] += 1
    annotations.write_text(json.dumps(content))
    assert evaluate(owlv2_folder, "--annotations", annotations, "--images", tmp_path / "images")
    assert "image of another size than annotated" in capsys.readouterr().err


def test_fixed_ap_has_no_limit_per_image(
    owlv2_folder: Path, annotations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads(annotations.read_text())
    for image in content["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    annotations.write_text(json.dumps(content))
    words = ["--annotations", annotations, "--images", tmp_path / "images", "--templates", "none"]
    words += ["--fixed-ap", "--device", "cpu", "--samples", "1", "--out", tmp_path / "out"]
    counts = []
    for limit in (10_000, 9):
        monkeypatch.setattr("owlkit.cli.evaluate._FIXED_AP_PER_CLASS", limit)
        assert evaluate(owlv2_folder, *words) == 0
        counts.append(len(json.loads((tmp_path / "out" / "results.json").read_text())))
        settings = (tmp_path / "out" / "report.txt").read_text()
        assert f"templates none, top {limit} of each class over all images, no NMS" in settings
    assert counts[0] > 5 * 20, "all boxes that are not in the padding"
    assert counts[1] == 9 * 3
    assert evaluate(owlv2_folder, *words, "--top-k", "4") == 0
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())) == 20
    assert "top 4, top 9 of each class" in (tmp_path / "out" / "report.txt").read_text()


def test_fixed_ap_of_results_says_so(
    annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(annotations.read_text())
    for image in content["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    annotations.write_text(json.dumps(content))
    file = tmp_path / "results.json"
    file.write_text(json.dumps(perfect_results(content)))
    assert evaluate(file, "--annotations", annotations, "--fixed-ap") == 0
    assert capsys.readouterr().out.splitlines()[1] == "fixed AP, results as given"


def test_results_are_kept_whatever_happens_afterwards(
    owlv2_folder: Path, annotations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("owlkit.evaluation.samples.draw_samples", fail)
    words = ["--annotations", annotations, "--images", tmp_path / "images", "--templates", "none"]
    assert evaluate(owlv2_folder, *words, "--device", "cpu", "--out", tmp_path / "out") == 1
    assert json.loads((tmp_path / "out" / "results.json").read_text())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model"], "--images: expected the folder of the images"),
        (["model", "--images", ".", "--batch-size", "0"], "batch size of at least 1, found 0"),
        (["model", "--images", ".", "--nms-iou", "2"], "nms_iou in [0, 1] or None, found 2"),
        (["model", "--images", ".", "--top-k", "0"], "top_k"),
        (["model", "--images", ".", "--fixed-ap"], "fixed AP is LVIS's"),
        (["model", "--images", ".", "--max-images", "0"], "--max-images: expected at least 1"),
        (["model", "--images", ".", "--samples", "-1"], "--samples: expected at least 0"),
        (["model", "--images", ".", "--out", __file__], "--out: expected a folder to write to"),
        (["model", "--images", ".", "--json", f"{__file__}/a"], "--json: expected a folder"),
        (["model", "--images", ".", "--json", "."], "--json: expected a file"),
        (["none.json", "--nms-iou", "0.5", "--top-k", "3"], "--top-k, --nms-iou: not for results"),
        (["none.json", "--as-written", "--images", "."], "--images, --as-written: not for"),
        (["none.json", "--templates", "none", "--samples", "8"], "--templates, --samples: not"),
        (["none.json", "--device", "cpu", "--max-images", "8"], "--max-images, --device: not"),
        (["none.json", "--batch-size", "8"], "--batch-size: not for results"),
        (["none.json"], "none.json"),
        (["model", "--images", "/none"], "/none (--images), found no such folder"),
        (["none.json", "--annotations", "/none/a.json"], "/none/a.json (--annotations): expected"),
        (["none.json", "--split", "/none/split.json"], "split.json (--split): expected a JSON"),
    ],
)
def test_mistakes_give_one_line(
    annotations: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    if "--annotations" not in words:
        words = [*words, "--annotations", str(annotations)]
    assert evaluate(*words) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
