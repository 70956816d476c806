"""Boxes as HTML."""

import re

import numpy as np

from owlkit.detections import Detections
from page.picture import as_boxes

PALETTE = [(1, 2, 3), (4, 5, 6)]


def found(boxes: list[list[float]], name: str = "cat") -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.1, count, dtype=np.float32),
        np.zeros(count, np.int64),
        (name,) * count,
        image_size=(100, 200),
    )


def lines(html: str) -> list[int]:
    return [int(line) for line in re.findall(r"--owl-line: (\d+)", html)]


def test_names_of_boxes_in_one_place_stand_above_each_other() -> None:
    here, near, away = [20, 20, 90, 90], [22, 21, 80, 95], [20, 40, 90, 90]
    # The best is the last in the page and on top, its name nearest to the box.
    assert lines(as_boxes(found([here, away, near, here]), PALETTE)) == [2, 1, 0, 0]
    assert lines(as_boxes(found([here] * 41), PALETTE)) == [0] * 41  # shown one at a time


def test_boxes_are_shares_of_the_picture_inside_it() -> None:
    html = as_boxes(found([[-10, 50, 100, 130]]), PALETTE)
    assert "left: 0.000%; top: 50.000%; width: 50.000%; height: 50.000%; " in html
    assert "--owl-colour: rgb(1, 2, 3);" in html
    assert 'aria-label="1 boxes"' in html


def test_names_are_nothing_but_text() -> None:
    html = as_boxes(found([[0, 0, 9, 9]], '<img onerror="x">`${1}\\'), PALETTE)
    assert not re.search(r"<img|\"x\"|[`$\\]", html)
