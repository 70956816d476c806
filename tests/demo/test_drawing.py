"""What is taken for the value of a drawing board."""

from typing import Any

import pytest

from owlkit.errors import QueryError


def board(value: Any) -> Any:
    from page.drawing import read_board
    from page.limits import Limits

    return read_board(value, Limits(examples=2))


def test_boxes_of_both_kinds() -> None:
    drawn = board(
        [
            {"box": [0, 0.25, 0.5, 1], "negative": False},
            {"box": [0.1, 0.2, 0.3, 0.4], "negative": True},
        ]
    )
    assert drawn.positive == ((0.0, 0.25, 0.5, 1.0),)
    assert drawn.negative == ((0.1, 0.2, 0.3, 0.4),)
    assert drawn
    assert not board([])


@pytest.mark.parametrize(
    "value",
    [
        None,
        "[]",
        {"box": [0, 0, 1, 1]},
        [None],
        [[0, 0, 1, 1]],
        [{}],
        [{"box": None}],
        [{"box": [0, 0, 1]}],
        [{"box": [0, 0, 1, "1"]}],
        [{"box": [0, 0, 1, [1]]}],
        [{"box": [-0.1, 0, 1, 1]}],
        [{"box": [0, 0, 1, 1e308]}],
        [{"box": [0, 0, 1, float("nan")]}],
        [{"box": [0, 0, 1, 1]}] * 3,
    ],
)
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(QueryError, match="expected"):
        board(value)
