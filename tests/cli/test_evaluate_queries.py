"""`owlkit evaluate-queries`: words and examples measured on the same images."""

import json
from pathlib import Path

import numpy as np
import pytest

from owlkit import Predictor, QuerySet
from owlkit.cli import COMMANDS
from owlkit.evaluation import evaluate_boxes
from tests.evaluation.small_set import CATEGORY_IDS, NAMES, coco_content, make_records

COUNT = 6


@pytest.fixture
def labelled(owlv2_folder: Path, tmp_path: Path) -> Path:
    """Objects where an untrained model finds them by their names, so that its AP is not 0."""
    records = make_records(tmp_path / "images", count=COUNT)
    content = coco_content(records)
    content["annotations"] = []
    predictor = Predictor.from_pretrained(owlv2_folder, device="cpu")
    for record in records:
        found = predictor.detect(record.path, NAMES, threshold=0, nms_iou=0.5)[:4]
        for entry in found.to_coco(record.id, CATEGORY_IDS):
            number = len(content["annotations"]) + 1
            content["annotations"].append({**entry, "id": number, "iscrowd": 0})
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    return tmp_path / "boxes.json"


def run(model: Path, labelled: Path, *words: str | Path) -> int:
    images = labelled.parent / "images"
    own = ["--annotations", labelled, "--images", images, "--device", "cpu"]
    examples = ["--examples", labelled, "--example-images", images]
    command = [str(word) for word in (model, *own, *examples, *words)]
    return COMMANDS["evaluate-queries"].main(command)


def test_words_and_examples_side_by_side(
    owlv2_folder: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "numbers.json"
    assert run(owlv2_folder, labelled, "--shots", "1", "2", "--draws", "2", "--json", out) == 0
    numbers = json.loads(out.read_text())
    said = capsys.readouterr().out
    for kind in ("text", "1 example, objectness", "2 examples, overlap", "text and 2 examples"):
        assert f"| {kind} |" in said
        lowest, mean, highest = (
            numbers[f"{kind}: {key}"] for key in ("AP50_lowest", "AP50", "AP50_highest")
        )
        assert lowest <= mean <= highest
    assert "false positives on look-alikes" in said

    # The first row is what a predictor finds by the classes' names, measured as always.
    content = json.loads(labelled.read_text())
    counts = np.bincount([one["category_id"] for one in content["annotations"]], minlength=99)
    asked = [(id_, name) for id_, name in zip(CATEGORY_IDS, NAMES, strict=True) if counts[id_] > 1]
    predictor = Predictor.from_pretrained(owlv2_folder, device="cpu")
    queries = QuerySet.from_text([name for _, name in asked])
    ids = [id_ for id_, _ in asked]
    results = []
    for image in content["images"]:
        path = labelled.parent / "images" / image["file_name"]
        found = predictor.detect(path, queries, threshold=0.001, nms_iou=0.5, top_k=300)
        results += found.to_coco(image["id"], ids)
    expected = evaluate_boxes(content, results, category_ids=ids)
    assert numbers["text: AP50"] == pytest.approx(expected["AP50"], abs=1e-6)
    assert 0 < numbers["text: AP50"] < 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shots", "0"], "--shots: expected at least 1, found 0"),
        (["--draws", "0"], "--draws: expected at least 1"),
        (["--text-weight", "2"], "text_weight"),
        (["--threshold", "none"], "--threshold: expected f1"),
        (["--nms-iou", "2"], "nms_iou"),
        (["--shots", "1000"], "at least 1000 boxes each, found none"),
    ],
)
def test_bad_options(
    owlv2_folder: Path,
    labelled: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(owlv2_folder, labelled, *words) == 1
    assert message in capsys.readouterr().err
