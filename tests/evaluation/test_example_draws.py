"""Examples drawn from labelled images."""

from pathlib import Path

import numpy as np
import pytest

from owlkit.data.coco import ImageRecord
from owlkit.errors import DatasetError
from owlkit.evaluation.example_draws import draw_examples


def record(number: int, *labels: int) -> ImageRecord:
    boxes = np.array([[row, 0, row + 5, number + 1] for row in range(len(labels))], np.float32)
    return ImageRecord(
        number, Path(f"{number}.jpg"), 99, 99, boxes.reshape(-1, 4), np.array(labels), (), ()
    )


RECORDS = [record(0, 7, 7, 7), record(1, 7, 3), record(2, 3), record(3, 7, 5)]


def test_of_their_class_from_different_images() -> None:
    for seed in range(20):
        drawn = draw_examples(RECORDS, [7, 3], 2, seed=seed)
        assert list(drawn) == [7, 3]
        assert {one.path.name for one in drawn[3]} == {"1.jpg", "2.jpg"}
        assert len({one.path for one in drawn[7]}) == 2
    # Image 0 gives a second one only where no further image is left.
    five = draw_examples(RECORDS, [7], 5, seed=0)[7]
    assert len({one.path for one in five[:3]}) == 3
    assert len({(one.path, one.box) for one in five}) == 5
    assert sum(one.path.name == "0.jpg" for one in five) == 3


def test_smaller_draws_begin_larger_ones() -> None:
    draws = [draw_examples(RECORDS, [7], count, seed=4)[7] for count in (1, 3, 5)]
    assert draws[2][:3] == draws[1]
    assert draws[1][:1] == draws[0]
    first = {draw_examples(RECORDS, [7], 1, seed=seed)[7][0] for seed in range(30)}
    assert len(first) == 5


def test_too_few() -> None:
    with pytest.raises(DatasetError, match=r"expected 2 boxes of class 5 .* found 1"):
        draw_examples(RECORDS, [7, 5], 2, seed=0)
