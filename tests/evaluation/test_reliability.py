"""Calibration error and Brier score against loops over the definition; the picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from owlkit.errors import DetectionsError
from owlkit.evaluation.reliability import (
    brier_score,
    expected_calibration_error,
    reliability_bins,
)
from owlkit.evaluation.reliability_plot import draw_reliability


def slow_error(pairs: list[tuple[float, bool]], members: list[list[int]]) -> float:
    error = 0.0
    for rows in members:
        if rows:
            confidence = sum(pairs[row][0] for row in rows) / len(rows)
            accuracy = sum(pairs[row][1] for row in rows) / len(rows)
            error += len(rows) / len(pairs) * abs(accuracy - confidence)
    return error


@pytest.mark.parametrize("count", [1, 7, 400])
def test_errors_are_those_of_the_definition(count: int) -> None:
    generator = np.random.default_rng(count)
    scores = generator.random(count).round(2)  # many on the borders of bins, and equal ones
    truth = generator.random(count) < scores**2
    pairs = sorted(zip(scores.tolist(), truth.tolist(), strict=True), key=lambda pair: pair[0])
    for bins in (1, 10, 15):
        width = [
            [
                row
                for row, (score, _) in enumerate(pairs)
                if index / bins < score <= (index + 1) / bins or (index == 0 and score == 0)
            ]
            for index in range(bins)
        ]
        found = expected_calibration_error(scores, truth, bins=bins)
        assert found == pytest.approx(slow_error(pairs, width), abs=1e-12)
    # Where equal scores stand in two bins their order decides: numpy's is the stable one.
    order = np.argsort(scores, kind="stable")
    pairs = [(float(scores[row]), bool(truth[row])) for row in order]
    parts = [[row for row in range(count) if row * 15 // count == index] for index in range(15)]
    found = expected_calibration_error(scores, truth, adaptive=True)
    assert found == pytest.approx(slow_error(pairs, parts), abs=1e-12)
    slow = sum((score - right) ** 2 for score, right in pairs) / count
    assert brier_score(scores, truth) == pytest.approx(slow)


def test_nothing_and_mistakes() -> None:
    assert expected_calibration_error([], []) == brier_score([], []) == 0
    with pytest.raises(DetectionsError, match=r"in \[0, 1\], found 1.5 at \[1\]"):
        brier_score([0.5, 1.5], [0, 1])
    with pytest.raises(DetectionsError, match=r"in \[0, 1\], found nan at \[0\]"):
        expected_calibration_error([np.nan], [0])
    with pytest.raises(DetectionsError, match=r"found shapes \[2\] and \[3\]"):
        reliability_bins([0.5, 0.5], [0, 1, 1])


def test_the_picture_has_its_panels(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random(200)
    bins = reliability_bins(scores, scores > 0.4)
    file = tmp_path / "reliability.png"
    # Dollar signs would be a formula, and nothing found is a picture, too.
    panels = {"before": bins, "after": reliability_bins([], [])}
    draw_reliability(panels, file, title="runs/$x$_{/best " * 12)
    with Image.open(file) as picture:
        assert picture.width > picture.height > 500
