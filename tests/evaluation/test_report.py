"""What people read and see: tables, curves, pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from owlkit import visualize
from owlkit.data.coco import ImageRecord
from owlkit.detections import Detections
from owlkit.evaluation import plots
from owlkit.evaluation.coco import measure_boxes
from owlkit.evaluation.plots import draw_precision_recall
from owlkit.evaluation.report import format_classes, format_metrics
from owlkit.evaluation.samples import draw_samples, side_by_side
from tests.evaluation.small_set import NAMES, coco_content, make_records, perfect_results


def test_metrics_are_aligned_and_undefined_ones_are_dashes() -> None:
    lines = format_metrics({"AP": 0.31234, "AP_novel": -1.0, "AR100": 0.0}).split("\n")
    assert lines == ["AP         0.3123", "AP_novel   -", "AR100      0.0000"]
    assert format_metrics({}) == ""


def test_classes_are_listed_best_first_without_those_that_are_nowhere(tmp_path: Path) -> None:
    content = coco_content(make_records(tmp_path, count=3))  # image 2 has a cat and a red mug
    results = [r for r in perfect_results(content) if r["category_id"] != 3]
    measured = measure_boxes(content, results)
    names = {3: "cat", 7: "red mug", 20: "owl"}
    lines = format_classes(measured, names).split("\n")
    assert lines[0].split() == ["class", *measured.per_class[3]]
    assert [line.split("  ")[0].strip() for line in lines[1:]] == ["red mug", "cat"]
    assert len({len(line) for line in lines}) == 1
    assert "1.0000" in lines[1]
    assert format_classes(replace(measured, per_class={}), names) == "class  AP"


@pytest.mark.parametrize("count", [1, 4])
def test_precision_and_recall_are_drawn_for_classes_that_are_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    figures = []
    monkeypatch.setattr(plots, "Figure", lambda **how: figures.append(Figure(**how)) or figures[-1])
    content = coco_content(make_records(tmp_path, count=count))
    measured = measure_boxes(content, perfect_results(content)[1:])
    path = "/a long folder/$runs/" + "deep/" * 30 + "$best"
    draw_precision_recall(measured, tmp_path / "curves.png", title=path)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1050, 750)
    (axes,) = figures[0].axes
    title = axes.title.get_window_extent()
    assert title.x0 > 0
    assert title.x1 < 1050
    defined = [key for key, values in measured.per_class.items() if values["AP"] > -1]
    assert len(defined) == {1: 0, 4: 3}[count]
    assert len(axes.get_lines()) == (len(defined) + 3 if defined else 0)
    if defined:
        mean = axes.get_lines()[-3].get_ydata()
        expected = measured.precision[0].mean(axis=1)
        np.testing.assert_allclose(mean, expected)
        (legend,) = figures[0].legends
        entries = [text.get_text() for text in legend.get_texts()]
        assert entries[:2] == ["IoU 0.50, single classes", f"IoU 0.50, mean: {expected.mean():.3f}"]
        assert not legend.get_window_extent().overlaps(axes.get_window_extent()), "hides no curve"


Figure = plots.Figure
STRIP = 24  # with the captions


def found_in(record: ImageRecord, scores: list[float]) -> Detections:
    """A small box in the upper left corner for each score."""
    count = len(scores)
    return Detections(
        boxes=np.tile(np.array([[2, 2, 20, 20]], np.float32), (count, 1)),
        scores=np.array(scores, np.float32),
        labels=np.zeros(count, np.int64),
        names=("cat",) * count,
        image_size=(record.height, record.width),
    )


def test_predictions_stand_on_the_left_and_the_truth_on_the_right(tmp_path: Path) -> None:
    empty, *_, full = make_records(tmp_path)
    blank = side_by_side(empty, found_in(empty, []), NAMES)
    width, height = (blank.width - 8) // 2, blank.height - STRIP
    assert (width, height) == (320, 480), "60 x 90 is enlarged until the longer side is 480"
    left, right = halves(blank)
    np.testing.assert_array_equal(left, right)
    left, right = halves(side_by_side(empty, found_in(empty, [0.5]), NAMES))
    assert (left != right).any()
    np.testing.assert_array_equal(right, halves(blank)[1])
    unsure, nothing = found_in(full, [0.05]), found_in(full, [])
    pictures = [side_by_side(full, found, NAMES) for found in (unsure, nothing)]
    # What the model hardly believes is not shown.
    np.testing.assert_array_equal(*pictures)
    left, right = halves(side_by_side(full, nothing, NAMES))
    assert (left != right).any(), "four boxes of the truth"
    captions = np.asarray(blank)[:STRIP]
    assert (captions[:, :width] < 99).any()
    assert (captions[:, width + 8 :] < 99).any()


def test_the_truth_has_no_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, full = make_records(tmp_path)
    texts: list[str] = []
    draw_chip = visualize._draw_chip

    def spy(draw: Any, text: str, *rest: Any) -> None:
        texts.append(text)
        draw_chip(draw, text, *rest)

    monkeypatch.setattr(visualize, "_draw_chip", spy)
    side_by_side(full, found_in(full, [0.75]), NAMES)
    assert texts[0] == "cat 0.75"
    assert len(texts) > 1
    assert set(texts[1:]) <= set(NAMES)


def halves(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.asarray(picture)[STRIP:]
    width = (picture.width - 8) // 2
    return pixels[:, :width], pixels[:, width + 8 :]


def test_samples_are_files_named_by_image(tmp_path: Path) -> None:
    records = make_records(tmp_path / "images", count=3)
    found = [(record, found_in(record, [0.9])) for record in records]
    files = draw_samples(found, NAMES, tmp_path / "a" / "samples")
    assert [file.name for file in files] == ["100.jpg", "101.jpg", "102.jpg"]
    assert sorted((tmp_path / "a" / "samples").iterdir()) == files
    for file in files:
        with Image.open(file) as picture:
            assert picture.format == "JPEG"
    assert draw_samples([], NAMES, tmp_path / "none") == []
