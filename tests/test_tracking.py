"""Tracking, on objects whose way is known."""

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from owlkit.detections import Detections
from owlkit.errors import ConfigError, MissingDependencyError
from owlkit.tracking import Tracker


@pytest.fixture(autouse=True)
def _package() -> None:
    pytest.importorskip("trackers", reason="pip install 'owlkit[track]'")


def found(objects: dict[str, tuple[float, float]], score: float = 0.3) -> Detections:
    """A box of 50x50 pixels for each object, whose class is the first letter of its name."""
    corners = np.array(list(objects.values()), dtype=np.float32).reshape(-1, 2)
    return Detections(
        boxes=np.concatenate([corners, corners + 50], axis=1),
        scores=np.full(len(objects), score),
        labels=np.array([ord(name[0]) - ord("a") for name in objects], dtype=np.int64),
        names=tuple(objects),
    )


def numbers(detections: Detections) -> dict[str, int]:
    """The number of each object."""
    assert detections.track_ids is not None
    return dict(zip(detections.names, detections.track_ids.tolist(), strict=True))


def shuffled(detections: Detections, random: np.random.Generator) -> Detections:
    return detections[random.permutation(len(detections))]


def test_objects_keep_their_numbers_while_they_cross_and_hide() -> None:
    tracker, random = Tracker(10), np.random.default_rng(0)
    seen: dict[str, set[int]] = {}
    for frame in range(30):
        objects = {"a1": (10 + 8.0 * frame, 10.0), "a2": (250 - 8.0 * frame, 45.0)}
        if not 10 <= frame < 18:  # out of sight for 0.8 seconds
            objects["b"] = (100.0, 150.0)
        if frame == 5:
            objects = {}
        given = shuffled(found(objects), random)
        answer = tracker.update(given)
        assert answer[:].names == given.names, "the same boxes in the same order"
        assert np.array_equal(answer.boxes, given.boxes)
        assert frame > 0 or set(numbers(answer).values()) == {-1}
        for name, number in numbers(answer).items():
            seen.setdefault(name, set()).add(number)
    assert {frozenset(one - {-1}) for one in seen.values()} == {
        frozenset({1}),
        frozenset({2}),
        frozenset({3}),
    }
    assert tracker.count == 3


def test_an_object_that_was_away_for_long_is_new() -> None:
    tracker = Tracker(10, lost_s=0.5)
    for _ in range(3):
        before = tracker.update(found({"a": (0, 0)}))
    for _ in range(10):
        tracker.update(found({}))
    for _ in range(3):
        after = tracker.update(found({"a": (0, 0)}))
    assert (numbers(before)["a"], numbers(after)["a"]) == (1, 2)


@pytest.mark.parametrize(("class_agnostic", "expected"), [(False, 2), (True, 1)])
def test_a_class_continues_another_only_if_asked_for(class_agnostic: bool, expected: int) -> None:
    tracker = Tracker(class_agnostic=class_agnostic)
    for name in ("a", "a", "b", "b"):
        answer = tracker.update(found({name: (0, 0)}))
    assert numbers(answer) == {"b": expected}
    assert tracker.count == expected


def test_weak_boxes_continue_objects_but_begin_none() -> None:
    tracker = Tracker(start_score=0.5)
    for score in (0.4, 0.4, 0.6, 0.6, 0.3):
        ids: NDArray[np.int64] | None = tracker.update(found({"a": (0, 0)}, score)).track_ids
        assert ids is not None
        assert ids.tolist() == [1 if tracker.count else -1]
    assert tracker.count == 1


@pytest.mark.parametrize(
    "option",
    [{"frame_rate": 0.0}, {"frame_rate": float("nan")}, {"start_score": 2.0}, {"lost_s": -1.0}],
)
def test_options_out_of_range(option: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        Tracker(**option)  # type: ignore[arg-type]


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(MissingDependencyError, match=r"owlkit\[track\]"):
        Tracker()
