"""Merging of overlapping instances against a slow, obvious version."""

from itertools import combinations

import numpy as np
import pytest

from owlkit.data.merging import merge_overlapping


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return intersection / (sum(areas) - intersection + 1e-6)


def slow_merge(boxes, labels, iou, generator):
    """All pairs are looked at anew after each merge; labels are sets."""
    left = [(box, set(names)) for box, names in zip(boxes, labels, strict=True)]
    while len(left) > 1:
        best, (i, j) = max(
            (
                (overlap(left[i][0], left[j][0]), (i, j))
                for i, j in combinations(range(len(left)), 2)
            ),
            key=lambda entry: entry[0],
        )
        if best < iou:
            break
        stays, goes = (i, j) if generator.random() < 0.5 else (j, i)
        left[stays][1].update(left[goes][1])
        del left[goes]
    return left


def clusters(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes around a few places, several of them almost the same."""
    generator = np.random.default_rng(seed)
    centres = generator.uniform(0.1, 0.6, (4, 4)) * [1, 1, 0, 0] + [0, 0, 0.3, 0.3]
    boxes = centres[generator.integers(4, size=20)] + generator.normal(0, 0.01, (20, 4))
    return boxes.astype(np.float32), np.eye(20, 7, dtype=bool)[:, generator.permutation(7)]


@pytest.mark.parametrize("iou", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_is_the_slow_version(seed, iou):
    boxes, labels = clusters(seed)
    boxes[:, 2:] += boxes[:, :2]
    names = [np.flatnonzero(row).tolist() for row in labels]
    wanted = slow_merge(boxes.tolist(), names, iou, np.random.default_rng(seed))
    found, multi_hot = merge_overlapping(
        boxes, labels, iou=iou, generator=np.random.default_rng(seed)
    )
    assert 1 < len(wanted) < len(boxes)
    np.testing.assert_array_equal(found, np.array([box for box, _ in wanted], np.float32))
    assert [set(np.flatnonzero(row).tolist()) for row in multi_hot] == [n for _, n in wanted]


def test_either_box_of_a_pair_stays_and_arguments_are_not_altered():
    boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.49]], np.float32)
    labels = np.eye(2, dtype=bool)
    generator = np.random.default_rng(0)
    stayed = [
        merge_overlapping(boxes, labels, iou=0.9, generator=generator)[0][0, 3] for _ in range(400)
    ]
    assert 160 < sum(height == 0.5 for height in stayed) < 240
    np.testing.assert_array_equal(labels, np.eye(2, dtype=bool))


def test_nothing_that_overlaps_less_is_touched():
    boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.44], [0.6, 0.6, 0.9, 0.9]], np.float32)
    labels = np.eye(3, dtype=bool)
    found, multi_hot = merge_overlapping(boxes, labels, iou=0.9, generator=np.random.default_rng(0))
    np.testing.assert_array_equal(found, boxes)
    np.testing.assert_array_equal(multi_hot, labels)


def test_boxes_of_almost_no_area_stay_apart_as_in_scenic():
    # The union of 1e-6 counts as 2e-6, so a box overlaps itself by a half.
    boxes = np.array([[0.5, 0.5, 0.501, 0.501]] * 2, np.float32)
    found, _ = merge_overlapping(
        boxes, np.eye(2, dtype=bool), iou=0.9, generator=np.random.default_rng(0)
    )
    assert len(found) == 2


@pytest.mark.parametrize("count", [0, 1])
def test_few_boxes(count):
    boxes, labels = np.ones((count, 4), np.float32), np.ones((count, 3), bool)
    found = merge_overlapping(boxes, labels, iou=0.9, generator=np.random.default_rng(0))
    assert [part.shape for part in found] == [(count, 4), (count, 3)]
