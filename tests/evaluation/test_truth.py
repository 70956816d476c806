"""Annotations of every kind are measured by their own rules."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owlkit.errors import DatasetError
from owlkit.evaluation import evaluate_boxes, evaluate_lvis
from owlkit.evaluation.truth import read_truth
from tests.evaluation.small_set import (
    CATEGORY_IDS,
    NAMES,
    coco_content,
    make_records,
    perfect_results,
    write_coco,
)

# With base and novel classes apart, COCO's metrics of both are added.
SPLIT = {"base": ["cat"], "novel": [{"id": 0, "name": "owl"}]}


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "boxes.json", make_records(tmp_path / "images"))


def results_of(annotations: Path) -> list[dict[str, Any]]:
    return perfect_results(json.loads(annotations.read_text()))


def test_coco(annotations: Path) -> None:
    truth = read_truth(annotations)
    assert truth.names == dict(zip(CATEGORY_IDS, NAMES, strict=True))
    assert not truth.is_federated
    results = results_of(annotations)
    assert truth.measure(results).metrics["AP"] == pytest.approx(1)
    half = [result for result in results if result["image_id"] != 104]
    assert truth.measure(half).metrics == evaluate_boxes(truth.content, half)
    assert truth.measure(half).metrics["AP"] < 1
    without = truth.measure(half, image_ids=[100, 101, 102, 103])
    assert without.metrics["AP"] == pytest.approx(1)
    with pytest.raises(DatasetError, match=r"boxes\.json: fixed AP is LVIS's"):
        read_truth(annotations, fixed_ap=True)


def test_results_may_be_a_file(annotations: Path, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results_of(annotations)))
    assert read_truth(annotations).measure(file).metrics["AP"] == pytest.approx(1)


def test_a_split_leaves_other_classes_out(annotations: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps(SPLIT))
    truth = read_truth(annotations, split=split)
    assert truth.names == {3: "cat", 20: "owl"}
    results = [result for result in results_of(annotations) if result["category_id"] != 20]
    measured = truth.measure(results)
    assert measured.category_ids == (3, 20)
    names = ("AP", "AP_base", "AP_novel", "AP50_base", "AP50_novel")
    assert [measured.metrics[name] for name in names] == pytest.approx([0.5, 1, 0, 1, 0])


def test_lvis(golden: Any) -> None:
    folder = golden("08c_lvis_eval")
    content = json.loads((folder / "gt.json").read_bytes())
    results = json.loads((folder / "dt.json").read_bytes())
    for fixed_ap in (True, False):
        truth = read_truth(folder / "gt.json", fixed_ap=fixed_ap)
        assert truth.is_federated
        expected = evaluate_lvis(content, results, fixed_ap=fixed_ap)
        assert truth.measure(results).metrics == expected
    ids = [image["id"] for image in truth.content["images"][:10]]
    expected = evaluate_lvis(truth.content, results, image_ids=ids)
    assert truth.measure(results, image_ids=ids).metrics == expected


def test_lvis_classes_outside_the_split_do_not_count(golden: Any, tmp_path: Path) -> None:
    folder = golden("08c_lvis_eval")
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"base": [1, 2], "novel": [4]}))
    measured = read_truth(folder / "gt.json", split=split).measure(folder / "dt.json")
    classes = measured.per_class
    assert sorted(classes) == [1, 2, 4]
    assert measured.metrics["AP"] == pytest.approx(sum(c["AP"] for c in classes.values()) / 3)


@pytest.mark.parametrize("content", ["{}", '{"categories": 3}', '{"categories": [{"id": 1}]}', "["])
def test_what_is_no_annotation_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "boxes.json"
    with pytest.raises(DatasetError, match=r"boxes\.json \(data\.val\.annotations\): .*No such"):
        read_truth(path, settings=("data.val.annotations", "eval.split"))
    path.write_text(content)
    with pytest.raises(DatasetError, match=r"boxes\.json"):
        read_truth(path)


def spoiled(annotations: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = json.loads(annotations.read_text())
    change(content)
    annotations.write_text(json.dumps(content))
    return annotations


@pytest.mark.parametrize(
    "fault",
    [
        {"image_id": 999},
        {"category_id": 999},
        {"bbox": [5, 5, -3, 5]},
        {"bbox": [5, 5, float("nan"), 5]},
        {"bbox": [900, 900, 5, 5]},
    ],
)
def test_unusable_annotations_do_not_count(
    annotations: Path, fault: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """As in the data set that is trained on, where they are left out with a warning."""
    results = results_of(annotations)
    expected = read_truth(annotations).measure(results).metrics
    box = {"id": 99, "image_id": 104, "category_id": 3, "bbox": [5, 5, 9, 9]} | fault
    spoiled(annotations, lambda content: content["annotations"].insert(0, box))
    assert caplog.text == ""
    truth = read_truth(annotations)
    assert truth.measure(results).metrics == expected
    assert "1 x" in caplog.text
    assert "annotation 99" in caplog.text


def test_boxes_that_leave_their_image_are_measured_as_they_are(annotations: Path) -> None:
    change = {"bbox": [-5, -5, 20, 20], "segmentation": [[1, 2, 3, 4, 5, 6]]}
    spoiled(annotations, lambda content: content["annotations"][0].update(change))
    first = read_truth(annotations).content["annotations"][0]
    assert first["bbox"] == [-5, -5, 20, 20]
    assert "segmentation" not in first, "masks are most of a file"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["annotations"][1].update(area=None), r"\[1\]\.area: .*found null"),
        (
            lambda content: content["annotations"][1].update(area=float("nan")),
            r"\.area: .*found nan",
        ),
        (lambda content: content.pop("images"), "images: expected a list"),
        (lambda content: content.update(images=[1, 2]), r"images\[0\]: expected an object"),
        (lambda content: content["categories"][0].update(name="owl"), "every name once.*ids 3, 20"),
        (lambda content: content["annotations"][0].update(iscrowd=2), r"iscrowd: expected 0 or 1"),
    ],
)
def test_what_would_stop_an_evaluation_stops_at_once(
    annotations: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(DatasetError, match=rf"boxes\.json(.|\n)*{message}"):
        read_truth(spoiled(annotations, change))


def test_partly_missing_frequencies_stop_at_once(golden: Any, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_bytes((golden("08c_lvis_eval") / "gt.json").read_bytes())
    spoiled(path, lambda content: content["categories"][2].pop("frequency"))
    with pytest.raises(DatasetError, match=r"boxes\.json: category 3: expected 'frequency'"):
        read_truth(path)


def test_a_split_of_other_classes_is_refused(annotations: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"base": ["cat"], "novel": ["zebra"]}))
    with pytest.raises(DatasetError, match="zebra"):
        read_truth(annotations, split=split)


def test_images_need_no_boxes(tmp_path: Path) -> None:
    records = make_records(tmp_path / "images", count=1)
    path = write_coco(tmp_path / "boxes.json", records)
    assert coco_content(records)["annotations"] == []
    assert read_truth(path).measure([]).metrics["AP"] == -1
