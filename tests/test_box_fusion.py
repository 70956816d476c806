"""Weighted box fusion against a slow and obvious version and the authors' package."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owlkit.box_fusion import fuse_boxes
from owlkit.errors import BoxError


def overlap(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def average(boxes, scores, cluster):
    weights = [scores[index] for index in cluster]
    return sum(w * boxes[i] for w, i in zip(weights, cluster, strict=True)) / sum(weights)


def slow_fusion(boxes, scores, classes, threshold, *, class_agnostic):
    """As the paper tells it, one box and one cluster at a time."""
    clusters = []
    for index in sorted(range(len(boxes)), key=lambda index: (-scores[index], index)):
        best, most = None, threshold
        for cluster in clusters:
            if class_agnostic or classes[cluster[0]] == classes[index]:
                found = overlap(average(boxes, scores, cluster), boxes[index])
                if found > most:
                    best, most = cluster, found
        if best is None:
            clusters.append([index])
        else:
            best.append(index)
    means = [sum(scores[index] for index in cluster) / len(cluster) for cluster in clusters]
    order = sorted(range(len(clusters)), key=lambda row: -means[row])
    return (
        [average(boxes, scores, clusters[row]) for row in order],
        [means[row] for row in order],
        [classes[clusters[row][0]] for row in order],
    )


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 40),
    class_count=st.integers(1, 4),
    threshold=st.sampled_from([0.0, 0.3, 0.55, 0.8, 1.0]),
    class_agnostic=st.booleans(),
)
def test_equals_a_loop(seed, count, class_count, threshold, class_agnostic):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 3, (count, 2)) * 8 + rng.random((count, 2)) * 2
    boxes = np.concatenate([corner, corner + 6 + rng.random((count, 2)) * 3], axis=1)
    scores, classes = rng.random(count), rng.integers(0, class_count, count)
    found = fuse_boxes(boxes, scores, classes, threshold, class_agnostic=class_agnostic)
    wanted = slow_fusion(boxes, scores, classes, threshold, class_agnostic=class_agnostic)
    np.testing.assert_allclose(found[0], np.reshape(wanted[0], (-1, 4)), atol=1e-9)
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-12)
    assert found[2].tolist() == wanted[2]
    assert [array.dtype for array in found] == [np.float64, np.float64, np.int64]


def test_equals_the_authors_package():
    # weighted_boxes_fusion([boxes], [scores], [classes], iou_thr=0.55) of ensemble_boxes 1.0.9.
    boxes = [
        [0.1, 0.1, 0.5, 0.5],
        [0.12, 0.1, 0.52, 0.5],
        [0.1, 0.14, 0.5, 0.6],
        [0.6, 0.6, 0.9, 0.9],
        [0.62, 0.6, 0.92, 0.88],
        [0.1, 0.1, 0.5, 0.52],
        [0.3, 0.1, 0.7, 0.5],
        [0.61, 0.61, 0.9, 0.91],
    ]
    scores, classes = [0.9, 0.75, 0.6, 0.4, 0.85, 0.3, 0.2, 0.15], [0, 0, 0, 1, 1, 1, 0, 0]
    found_boxes, found_scores, found_classes = fuse_boxes(boxes, scores, classes, 0.55)
    wanted = [
        [0.1066667, 0.1106667, 0.5066667, 0.5266666],
        [0.6136, 0.6, 0.9136, 0.8864],
        [0.1, 0.1, 0.5, 0.52],
        [0.3, 0.1, 0.7, 0.5],
        [0.61, 0.61, 0.9, 0.91],
    ]
    # Theirs is float32.
    np.testing.assert_allclose(found_boxes, wanted, atol=2e-7)
    np.testing.assert_allclose(found_scores, [0.75, 0.625, 0.3, 0.2, 0.15], atol=1e-7)
    assert found_classes.tolist() == [0, 1, 1, 0, 0]


def test_a_box_joins_the_fused_box_not_the_best_one():
    # The third overlaps the first by 0.5 alone, the mean of the first two by more than 0.55.
    boxes = np.array([[0, 0, 10, 12], [0, 0, 10, 8], [0, 0, 10, 6]], dtype=np.float64)
    fused, scores, _ = fuse_boxes(boxes, [0.8, 0.8, 0.4], [3, 3, 3], 0.55)
    np.testing.assert_allclose(fused, [[0, 0, 10, (12 * 0.8 + 8 * 0.8 + 6 * 0.4) / 2]])
    np.testing.assert_allclose(scores, [2 / 3])
    assert len(fuse_boxes(boxes[[0, 2]], [0.8, 0.4], [3, 3], 0.55)[0]) == 2


def test_equal_boxes_and_full_scores_stay_as_they_are():
    boxes = np.tile(np.array([[0.1, 0.3, 7.7, 9.9]]), (50, 1))
    fused, scores, classes = fuse_boxes(boxes, np.ones(50), np.full(50, 2), 0.55)
    assert fused.tolist() == [boxes[0].tolist()]
    assert (scores.tolist(), classes.tolist()) == ([1.0], [2])
    fused, scores, _ = fuse_boxes(boxes, np.linspace(0.9, 0.1, 50), np.zeros(50, int), 0.55)
    assert fused.tolist() == [boxes[0].tolist()]
    np.testing.assert_allclose(scores, [0.5])


def test_scores_of_zero_have_a_place():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60], [50, 50, 60, 58]]
    fused, scores, _ = fuse_boxes(boxes, [0.5, 0, 0, 0], [0, 0, 0, 0], 0.55)
    assert fused.tolist() == [[0, 0, 10, 10], [50, 50, 60, 59]]
    assert scores.tolist() == [0.25, 0]


@pytest.mark.parametrize(
    ("boxes", "scores", "classes", "threshold", "message"),
    [
        (np.zeros((2, 5)), [0, 0], [0, 0], 0.5, r"boxes of shape \[N, 4\], found \[2, 5\]"),
        (np.zeros((1, 4)), [np.nan], [0], 0.5, "finite scores, found nan at index 0"),
        (np.zeros((2, 4)), [0, -1], [0, 0], 0.5, "at least 0, found -1.0 at index 1"),
        (np.zeros((1, 4)), [0], [0.0], 0.5, "integer classes, found float64"),
        (np.zeros((1, 4)), [0], [0, 1], 0.5, r"classes of shape \[1\], found \[2\]"),
        (np.zeros((1, 4)), [0], [0], 1.5, r"iou_threshold in \[0, 1\], found 1.5"),
    ],
)
def test_bad_input_is_named(boxes, scores, classes, threshold, message):
    with pytest.raises(BoxError, match=message):
        fuse_boxes(boxes, scores, classes, threshold)
