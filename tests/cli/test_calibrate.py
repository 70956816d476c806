"""`owlkit calibrate`: labelled images in; queries or a model whose scores mean something, out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from owlkit import OwlDetector, Predictor, QuerySet
from owlkit.calibration import Calibration
from owlkit.cli import calibrate
from owlkit.cli.command import Command
from owlkit.evaluation.calibration_pairs import half_of
from tests.evaluation.small_set import CATEGORY_IDS, NAMES, coco_content, make_records

COUNT = 10
RESULTS = ["--device", "cpu", "--batch-size", "3"]


@pytest.fixture(scope="module")
def model(owlv2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """owlkit's own folder, which can be written to."""
    folder = tmp_path_factory.mktemp("calibrate") / "model"
    OwlDetector.from_pretrained(owlv2_folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def annotations(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Objects where an untrained model finds them: its better boxes more often than others."""
    folder = tmp_path_factory.mktemp("labelled")
    records = make_records(folder / "images", count=COUNT)
    assert {half_of(record.id) for record in records} == {0, 1}
    content = coco_content(records)
    content["annotations"] = []
    predictor = Predictor.from_pretrained(model, device="cpu")
    generator = np.random.default_rng(0)
    for record in records:
        found = predictor.detect(record.path, NAMES, threshold=0, nms_iou=0.5)
        for place, entry in enumerate(found.to_coco(record.id, CATEGORY_IDS)):
            if generator.random() < 0.6 - place / len(found):
                content["annotations"].append(
                    {**entry, "id": len(content["annotations"]) + 1, "iscrowd": 0}
                )
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder / "boxes.json"


def run(*words: str | Path) -> int:
    command = Command(calibrate.SUMMARY, calibrate.add_arguments, calibrate.run, extra="train")
    return command.main([str(word) for word in words])


def data(annotations: Path) -> list[str | Path]:
    return ["--annotations", annotations, "--images", annotations.parent / "images", *RESULTS]


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_queries_get_calibrations_and_thresholds(
    model: Path,
    annotations: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
) -> None:
    out, report = tmp_path / "new" / "cats.queries", tmp_path / "report"
    words = [model, *data(annotations), "--method", method, "--per", "class"]
    assert run(*words, "--out", out, "--report", report) == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in report.iterdir()) == [
        *("reliability.png", "report.json", "report.md")
    ]
    assert (report / "report.md").read_text() in printed
    content = json.loads((report / "report.json").read_text())
    assert content["settings"]["method"] == method
    # How much less depends on the model, and this one is random.
    assert content["after"]["ece"] < content["before"]["ece"]
    assert content["after"]["nll"] < content["before"]["nll"]
    assert "one half of the images" in content["held_out"]
    assert 0 < content["before"]["pairs"] < content["fitted_on"]["pairs"]

    queries = QuerySet.load(out)
    assert queries.names == NAMES
    for one in queries.classes:
        noted = content["classes"][one.name]
        assert one.calibration == Calibration.from_dict(noted["calibration"])
        assert one.threshold == noted["threshold"]
    # What they promise is what a predictor then does, at the thresholds that were chosen.
    predictor = Predictor.from_pretrained(model, device="cpu")
    images = sorted((annotations.parent / "images").iterdir())
    found = predictor.detect([*images], queries, nms_iou=0.5)
    kept = sum(one.names.count("cat") for one in found)
    cat = json.loads(annotations.read_text())
    objects = sum(entry["category_id"] == CATEGORY_IDS[0] for entry in cat["annotations"])
    noted = content["classes"]["cat"]
    assert kept == pytest.approx(noted["recall"] * objects / noted["precision"])


def test_a_model_keeps_its_calibration(
    model: Path, annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    before = json.loads((copy / "owlkit.json").read_text())
    words = [*data(annotations), "--threshold", "recall=0.5"]
    assert run(copy, *words, "--write-model", "--report", tmp_path / "report") == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    written = json.loads((copy / "owlkit.json").read_text())
    assert written.pop("calibration") == report["model"]["calibration"]
    assert written.pop("threshold") == report["model"]["threshold"]
    assert written == before
    calibrated = Predictor.from_pretrained(copy, device="cpu")
    plain = Predictor.from_pretrained(model, device="cpu")
    image = annotations.parent / "images" / "3.png"
    calibration = Calibration.from_dict(report["model"]["calibration"])
    scores = plain.detect(image, NAMES, threshold=0).scores.astype(np.float64)
    np.testing.assert_allclose(
        calibrated.detect(image, NAMES, threshold=0).scores,
        calibration.probabilities(np.log(scores / (1 - scores))),
        rtol=1e-4,
    )
    least = calibrated.detect(image, NAMES).scores
    assert (least > report["model"]["threshold"]).all()

    # Once more: what is there already changes nothing, and a stale threshold goes.
    again = [*data(annotations), "--threshold", "none"]
    assert run(copy, *again, "--write-model") == 0
    written = json.loads((copy / "owlkit.json").read_text())
    assert written["calibration"] == report["model"]["calibration"]
    assert "threshold" not in written
    assert "threshold" not in capsys.readouterr().out.splitlines()[-1]


def test_saved_queries_and_other_images_to_measure_on(
    model: Path, annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = QuerySet.from_text(["owl", "dragon", "cat"])
    queries.update("cat", threshold=0.9, colour=(1, 2, 3))
    queries.save(tmp_path / "old.queries")
    words = [model, *data(annotations), "--queries", tmp_path / "old.queries", "--per", "class"]
    words += ["--val-annotations", annotations, "--val-images", annotations.parent / "images"]
    assert run(*words, "--threshold", "precision=0.99", "--out", tmp_path / "new.queries") == 0
    printed = capsys.readouterr().out
    assert f"Measured on {annotations}, fitted on {annotations}" in printed
    assert "1 of 3 classes have too few detections" in printed
    assert "all together: dragon." in printed
    fitted = QuerySet.load(tmp_path / "new.queries")
    assert fitted.names == ("owl", "dragon", "cat")
    assert fitted["cat"].colour == (1, 2, 3)
    assert fitted["cat"].threshold != 0.9
    assert all(one.calibration for one in fitted.classes)
    assert QuerySet.load(tmp_path / "old.queries")["cat"].calibration is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threshold", "f2"], "expected f1, precision=LEVEL"),
        (["--iou", "0.42"], "iou: expected one of 0.5"),
        (["--nms-iou", "2"], "nms_iou in [0, 1]"),
        (["--batch-size", "0"], "--batch-size: expected at least 1"),
        (["--max-images", "0"], "--max-images: expected at least 1"),
        (["--val-images", "."], "--val-annotations and --val-images: expected both"),
        (["--write-model", "--per", "class"], "--per class: expected --out"),
        (["--queries", "dragon"], "names of the annotations' categories, found dragon"),
        (["--queries", "none.queries"], "none.queries"),
        (["--out", "."], "--out: expected a file"),
        (["--report", __file__], "--report: expected a folder"),
        (["--max-images", "1"], "found that 0 of"),
    ],
)
def test_mistakes_give_one_line(
    model: Path,
    annotations: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert run(model, *data(annotations), *words) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1


def test_a_foreign_model_is_not_written_to(
    owlv2_folder: Path, annotations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(owlv2_folder, *data(annotations), "--write-model") == 1
    assert "--write-model: expected an owlkit model folder" in capsys.readouterr().err
