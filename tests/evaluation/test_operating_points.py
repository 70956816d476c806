"""Thresholds against a walk over all of them."""

import numpy as np
import pytest

from owlkit.errors import ConfigError
from owlkit.evaluation.operating_points import Target, choose_threshold, measure_threshold


def all_points(
    scores: list[float], truth: list[bool], objects: int
) -> list[tuple[float, float, float]]:
    """Precision, recall and F1 of every threshold that keeps something, the highest first."""
    points = []
    for limit in sorted(set(scores), reverse=True):
        kept = [right for score, right in zip(scores, truth, strict=True) if score >= limit]
        true = sum(kept)
        points.append((true / len(kept), true / objects, 2 * true / (len(kept) + objects)))
    return points


@pytest.mark.parametrize("seed", range(60))
def test_the_chosen_threshold_is_the_best_of_all(seed: int) -> None:
    generator = np.random.default_rng(seed)
    count = int(generator.integers(1, 40))
    # With equal scores, and with neighbours in float32.
    scores = generator.random(count).round(1 + seed % 3).astype(np.float32)
    scores[: count // 3] = np.nextafter(max(scores[-1], np.float32(0.1)), np.float32(1))
    truth = generator.random(count) < 0.2 + 0.6 * scores
    objects = int(truth.sum()) + int(generator.integers(0, 4)) + (not truth.any())
    points = all_points(scores.tolist(), truth.tolist(), objects)

    best = choose_threshold(scores, truth, objects, Target())
    assert best.f1 == pytest.approx(max(f1 for *_, f1 in points))
    for level in (0.3, 0.7, 1.0):
        careful = choose_threshold(scores, truth, objects, Target("precision", level))
        good = [point for point in points if point[0] >= level]
        wanted = good[-1] if good else max(points, key=lambda point: point[0])
        assert (careful.precision, careful.recall) == pytest.approx(wanted[:2])
        assert careful.reached == bool(good)
        thorough = choose_threshold(scores, truth, objects, Target("recall", level))
        good = [point for point in points if point[1] >= level]
        wanted = good[0] if good else points[-1]
        assert (thorough.precision, thorough.recall) == pytest.approx(wanted[:2])
        assert thorough.reached == bool(good)
        for point in (best, careful, thorough):
            applied = measure_threshold(scores, truth, objects, point.threshold)
            assert (applied.precision, applied.recall) == (point.precision, point.recall)
            assert 0 <= point.threshold <= 1


def test_the_threshold_lies_between_scores() -> None:
    scores = np.array([0.9, 0.7, 0.2], np.float32)
    truth = np.array([True, True, False])
    assert choose_threshold(scores, truth, 2, Target()).threshold == pytest.approx(0.45)
    last = choose_threshold(scores, truth, 2, Target("recall", 1.0))
    assert last.threshold == pytest.approx(0.45)
    everything = choose_threshold(scores, truth, 3, Target("recall", 1.0))
    assert not everything.reached
    assert 0.1999 < everything.threshold < np.float32(0.2)


def test_without_detections() -> None:
    none = np.zeros(0, np.float32), np.zeros(0, bool)
    assert choose_threshold(*none, 3, Target()).recall == 0
    assert measure_threshold(*none, 3, 0.1).f1 == 0
    assert measure_threshold(*none, 0, 0.1).f1 == 1


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("f1", Target()),
        ("precision=0.9", Target("precision", 0.9)),
        ("recall=1", Target("recall", 1.0)),
        ("none", None),
    ],
)
def test_targets_in_words(text: str, target: Target | None) -> None:
    assert Target.parse(text) == target
    if target is not None:
        assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    "text", ["", "f2", "f1=0.5", "recall", "recall=", "recall=0", "precision=1.1", "recall=nan"]
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected f1, precision=LEVEL"):
        Target.parse(text)
