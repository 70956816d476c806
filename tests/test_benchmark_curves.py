"""Curves have the exponent of their growth, are traced by size, and become one picture."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


def make_curve(path="curve-a", series=""):
    from benchmarks.curves import trace

    return trace(
        dict.fromkeys([1, 10, 100], lambda: None),
        path=path,
        curve="cost against size",
        series=series,
        settings="s",
        x_label="size [pixels]",
        repeats=1,
    )


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_exponent_is_that_of_the_upper_part(exponent):
    from benchmarks.curves import growth_exponent, upper_part

    x = [1, 2, 4, 8, 16, 32, 64, 128]
    seconds = 3 * np.array(x, dtype=float) ** exponent
    assert growth_exponent(x, seconds) == pytest.approx(exponent)
    assert upper_part(x) == [16, 32, 64, 128]
    assert upper_part(x[:4]) == [2, 4, 8]
    seconds[:4] = 50.0  # costs that do not grow
    assert growth_exponent(x, seconds) == pytest.approx(exponent)


def test_sizes_are_traced_in_turn_and_medians_are_kept(monkeypatch, capsys):
    import benchmarks.curves as subject

    calls, times = [], iter([1, 2, 4, 9, 8, 12, 3, 4, 8])
    monkeypatch.setattr(subject, "seconds", lambda function: (function(), next(times))[1])
    traced = subject.trace(
        {size: lambda size=size: calls.append(size) for size in (1, 2, 4)},
        **{"path": "p", "curve": "c", "settings": "s", "x_label": "x", "repeats": 3},
    )
    assert calls == [1, 2, 4] * 4  # the first round is not timed
    assert (traced.x, traced.seconds, traced.owlkit_s) == ((1, 2, 4), (3, 4, 8), 8)
    assert traced.spread == pytest.approx(8 / 3)
    slope = np.log2([3, 4, 8]) @ [-0.5, 0, 0.5]
    assert traced.exponent == pytest.approx(slope)
    assert f"| p | s |  |  |  | 8.000 |  | 267% | exponent {slope:.3g}," in capsys.readouterr().out


def test_curves_fit_into_the_records_and_into_one_picture(tmp_path, capsys):
    from benchmarks.curves_plot import draw_curves
    from benchmarks.table import write_json, write_markdown

    records = [{"path": "query", "ratio": 2.0, "settings": "s"}]
    records += [asdict(make_curve(series=name)) for name in ("one", "two")]
    records.append(asdict(make_curve("curve-b")))
    write_json(records, tmp_path / "rows.json")
    write_markdown("a machine", records, [], tmp_path / "rows.md")
    read = json.loads((tmp_path / "rows.json").read_text())
    assert read[1]["x"] == [1, 10, 100]
    pictures = [tmp_path / "new" / "a.svg", tmp_path / "new" / "b.svg"]
    for picture, rows in zip(pictures, (records, read), strict=True):
        draw_curves(rows, picture)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert ElementTree.parse(pictures[0]).getroot().tag.endswith("svg")
    panels = pictures[0].read_text().count('<g id="axes_')
    assert panels == 2
    draw_curves(records[:1], tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


@pytest.mark.parametrize(
    ("path", "module", "sizes", "series"),
    [
        ("curve-size", "curves_predict", {"SIZES": (32, 48, 64)}, [""]),
        ("curve-queries", "curves_predict", {"COUNTS": (1, 5, 9)}, ["encoded scene", "picture"]),
        ("curve-batch", "curves_predict", {"BATCHES": (1, 2, 3)}, [""]),
        ("curve-tokens", "curves_train", {"SIZES": (32, 48, 64)}, [""]),
        ("curve-boxes", "curves_train", {"BOXES": (1, 2, 9)}, ["step", "its loss"]),
        ("curve-detections", "curves_evaluate", {"DETECTIONS": (10, 20, 30)}, [""]),
    ],
)
def test_each_path_runs_at_small_sizes(path, module, sizes, series, monkeypatch, tmp_path, capsys):
    import importlib

    import benchmarks.curves_detector as detector
    from benchmarks.paths import find_comparison

    monkeypatch.setattr(detector, "CHANGES", {"embed_dim": 32, "num_heads": 2, "depth": 1})
    subject = importlib.import_module(f"benchmarks.{module}")
    small = {"_SIZE": 64, "IMAGES": 20, "OBJECTS": 100, **sizes}
    for name, value in small.items():
        monkeypatch.setattr(subject, name, value, raising=name in sizes)
    curves = list(find_comparison(path)(1, tmp_path))
    assert [(one.path, one.series) for one in curves] == [(path, name) for name in series]
    assert all(min(one.seconds) > 0 and np.isfinite(one.exponent) for one in curves)


def test_every_beginning_of_the_results_is_a_problem_with_both_hits_and_misses():
    from benchmarks.curves_evaluate import make_problem
    from owlkit.evaluation import evaluate_boxes

    truth, results = make_problem(500, 2_000)
    small, large = (evaluate_boxes(truth, results[:count]) for count in (500, 2_000))
    assert 0 < small["AP50"] < large["AP50"] < 1
