"""Each rule for boxes that a tile's edge cuts, by itself: three tiles in a row, and the whole."""

import numpy as np
import pytest

from owlkit.tiling.cut_boxes import Pieces, complete, sides_cut

SIZE = (200, 250)
LEFT, MIDDLE, RIGHT, WHOLE = (
    (0, 0, 100, 100),
    (75, 0, 175, 100),
    (150, 0, 250, 100),
    (0, 0, 250, 200),
)
VIEWS = (LEFT, MIDDLE, RIGHT, WHOLE)


def pieces(*rows):
    """Of rows (view, box[, score[, label]])."""
    filled = [(*row, *(0.8, 0)[len(row) - 2 :]) for row in rows]
    views, boxes, scores, labels = (list(column) for column in zip(*filled, strict=True))
    boxes, spans = np.array(boxes, float), np.array(views, float)
    return Pieces(
        boxes=boxes,
        scores=np.array(scores, np.float32),
        labels=np.array(labels),
        view=np.array([VIEWS.index(view) for view in views]),
        spans=spans,
        cut=sides_cut(boxes, spans, SIZE),
    )


def remaining(*rows, **options):
    return sorted(map(tuple, complete(pieces(*rows), **options).boxes.tolist()))


def boxes_of(*rows):
    return sorted(tuple(map(float, row[1])) for row in rows)


def test_a_side_near_an_inner_edge_is_cut():
    boxes = np.array([[0, 0, 98.5, 50], [0, 0, 97.5, 98.5], [1.5, 3, 50, 101]])
    cut = sides_cut(boxes, np.tile(np.array(LEFT, float), (3, 1)), SIZE)
    assert cut.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    # Of a tiny tile, too, a pixel is near.
    assert sides_cut(np.array([[0, 0, 9.0, 5]]), np.array([[0, 0, 10.0, 10]]), SIZE)[0, 2]


@pytest.mark.parametrize(
    ("other", "goes"),
    [
        ((MIDDLE, (78, 10, 120, 30)), True),
        ((MIDDLE, (78, 10, 120, 30), 0.41), True),
        ((MIDDLE, (78, 10, 120, 30), 0.39), False),  # much less likely
        ((MIDDLE, (82, 10, 120, 30)), False),  # covers too little
        ((MIDDLE, (78, 10, 99, 30)), False),  # is smaller
        ((LEFT, (71, 9, 97, 32)), False),  # the same view
        ((MIDDLE, (78, 10, 120, 30), 0.8, 1), False),  # another class
    ],
)
def test_a_cut_box_gives_way_to_a_better_one(other, goes):
    cut = (LEFT, (72, 10, 100, 30))
    assert remaining(cut, other) == (boxes_of(other) if goes else boxes_of(cut, other))
    if len(other) == 4:
        assert remaining(cut, other, class_agnostic=True) == boxes_of(other)


def test_equal_cut_boxes_do_not_make_each_other_go():
    # Both tiles show the upper part of an object that no tile shows completely.
    both = [(LEFT, (80, 80, 95, 100)), (MIDDLE, (80, 80, 95, 100))]
    assert remaining(*both) == boxes_of(*both)
    # A larger box goes before a smaller one, cut or not.
    larger = (WHOLE, (78, 78, 98, 120))
    assert remaining(*both, larger) == boxes_of(larger)


def test_pieces_join_if_they_agree_along_the_edge():
    first, second = (LEFT, (60, 10, 100, 30), 0.6), (MIDDLE, (75, 11, 120, 31), 0.9)
    joined = complete(pieces(first, second))
    assert joined.boxes.tolist() == [[60, 10, 120, 31]]
    assert joined.scores.tolist() == [np.float32(0.9)]
    assert not joined.cut.any()
    for other in (
        (MIDDLE, (75, 24, 120, 60)),  # elsewhere
        (MIDDLE, (90, 11, 120, 31)),  # begins within the overlap
        (MIDDLE, (75, 11, 120, 31), 0.9, 1),  # another class
        (RIGHT, (150, 10, 170, 30)),  # not a neighbour
    ):
        assert remaining(first, other) == boxes_of(first, other)


def test_what_is_joined_and_complete_stays():
    object_ = [(LEFT, (60, 10, 100, 30)), (MIDDLE, (75, 10, 120, 30))]
    beside = (MIDDLE, (75, 5, 140, 90))
    assert remaining(*object_, beside) == [(60, 10, 120, 30), (75, 5, 140, 90)]
    # Pieces go before they could join if one view shows the object.
    seen = (WHOLE, (58, 8, 123, 33))
    assert remaining(*object_, seen) == boxes_of(seen)
    # One that goes on is still a piece.
    longer = [(LEFT, (60, 10, 100, 30)), (MIDDLE, (75, 10, 175, 30))]
    assert remaining(*longer) == [(60, 10, 175, 30)]
    through = [*longer, (RIGHT, (150, 10, 200, 30))]
    assert remaining(*through) == [(60, 10, 200, 30)]
