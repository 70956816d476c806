"""What a selection says of overlapping boxes, and what holds where it says nothing."""

import numpy as np
import pytest

from owlkit.box_merging import merge_boxes
from owlkit.postprocess import Selection

SCORES = np.array([0.9, 0.8], np.float32)


def merge(iou, *, labels=(3, 3), **options):
    """Two boxes of that overlap; the number that remain, and the scores."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10 * iou]])
    boxes, scores, labels = merge_boxes(boxes, SCORES, np.array(labels), Selection(**options))
    assert [array.dtype for array in (boxes, scores, labels)] == [np.float32, np.float32, np.int64]
    return len(boxes), scores.tolist()


@pytest.mark.parametrize(
    ("options", "usual"),
    [({}, 0.5), ({"box_fusion": True}, 0.55), ({"soft_nms": "linear"}, 0.3)],
)
def test_the_usual_overlap_holds_where_none_is_given(options, usual):
    alone = (2, pytest.approx([0.9, 0.8]))
    assert merge(usual - 0.02, **options) == alone
    assert merge(usual + 0.02, **options) != alone
    assert merge(usual + 0.02, nms_iou=0.9, **options) == alone
    assert merge(usual + 0.02, labels=(3, 5), **options) == alone
    agnostic = merge(usual + 0.02, labels=(3, 5), class_agnostic=True, **options)
    assert agnostic == merge(usual + 0.02, **options)


def test_lowered_scores_must_pass_the_threshold_of_their_class():
    found = merge(0.6, soft_nms="linear", threshold=[0.4] * 4)
    assert found == (1, pytest.approx([0.9]))
    found = merge(0.6, soft_nms="linear", threshold=[0.4] * 3 + [0.3])
    assert found == (2, pytest.approx([0.9, 0.8 * 0.4]))
    assert merge(0.6, box_fusion=True, threshold=0.84) == (1, pytest.approx([0.85]))
    assert merge(0.6, box_fusion=True, threshold=0.86) == (0, [])
