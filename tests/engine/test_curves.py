"""Curves hold what was logged, and nothing is drawn from nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from owlkit.engine import curves
from owlkit.engine.curves import draw_curves, read_metrics


def write(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def train(step: int, **values: float | None) -> dict[str, Any]:
    return {"step": step, "kind": "train", "time": 0.5, **values}


def evaluation(step: int, **values: float | None) -> dict[str, Any]:
    return {"step": step, "kind": "eval", "time": 0.5, **values}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures, instead of their files."""
    figures: dict[str, Figure] = {}
    monkeypatch.setattr(
        curves, "_save", lambda figure, path: figures.__setitem__(path.stem, figure)
    )
    return figures


def lines(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in figure.axes[0].get_lines()
        if not line.get_label().startswith("_")
    }


def test_pictures_are_written(tmp_path: Path) -> None:
    entries = [
        train(1, loss=3.0, lr=1e-4),
        train(2, loss=2.0, lr=2e-4),
        evaluation(2, AP=0.25, AP50=0.5),
    ]
    draw_curves(write(tmp_path / "metrics.jsonl", *entries), tmp_path / "plots")
    for name in ("loss", "ap", "lr"):
        with Image.open(tmp_path / "plots" / f"{name}.png") as image:
            assert image.size == (1200, 675)
            assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_values_go_to_their_own_picture(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    entries = [
        train(5, loss=3.0, classes=0.5, giou=1.0, images_per_second=9.0, grad_norm=2.0),
        {"step": 5, "kind": "train", "lr/image": 1e-4, "lr/text": 1e-6, "lr": 1e-3},
        evaluation(5, AP=0.25, AP50=0.5, ap50_novel=0.1, AP_base=0.3, AR100=0.6, seconds=4.0),
        train(10, loss=2.0, classes=0.25, giou=None, skipped=1.0, accuracy=0.5),
    ]
    draw_curves(write(tmp_path / "metrics.jsonl", *entries), tmp_path)
    assert lines(drawn["loss"]) == {
        "loss": ([5, 10], [3.0, 2.0]),
        "classes": ([5, 10], [0.5, 0.25]),
        "giou": ([5], [1.0]),
    }
    assert lines(drawn["lr"]) == {
        "lr/image": ([5], [1e-4]),
        "lr/text": ([5], [1e-6]),
        "lr": ([5], [1e-3]),
    }
    found = lines(drawn["ap"])
    assert found.pop("best AP: 0.250 at step 5")[0] == [5, 5]
    assert found == {
        "AP": ([5], [0.25]),
        "AP50": ([5], [0.5]),
        "ap50_novel": ([5], [0.1]),
        "AP_base": ([5], [0.3]),
    }


def test_the_best_step_is_marked_and_ticks_are_steps(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    values = {2: 0.1, 3: 0.4, 4: 0.4, 5: 0.3}
    entries = [evaluation(step, AP=value, AP50=1 - value) for step, value in values.items()]
    draw_curves(write(tmp_path / "metrics.jsonl", *entries), tmp_path)
    assert lines(drawn["ap"])["best AP: 0.400 at step 3"][0] == [3, 3]
    assert all(tick == round(tick) for tick in drawn["ap"].axes[0].get_xticks())


def test_curves_that_coincide_share_a_line_and_the_total_is_widest(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    rates = {"lr/vision": 1e-4, "lr/text": 1e-6, "lr/box_head": 1e-4}
    entries = [train(step, loss=3.0, giou=3.0, **rates) for step in (1, 2)]
    draw_curves(write(tmp_path / "metrics.jsonl", *entries), tmp_path)
    assert list(lines(drawn["lr"])) == ["lr/vision, lr/box_head", "lr/text"]
    total, term = drawn["loss"].axes[0].get_lines()[:2]
    assert total.get_linewidth() > 1.5 * term.get_linewidth(), "seen on both sides of a term on it"


def test_losses_are_smoothed_before_their_raw_values(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    rng = np.random.default_rng(0)
    values = 5 - 0.01 * np.arange(200) + rng.normal(0, 0.3, 200)
    entries = [train(step, loss=value) for step, value in enumerate(values)]
    draw_curves(write(tmp_path / "metrics.jsonl", *entries), tmp_path)
    by_hand = []
    for index in range(200):
        reach = min(5, index, 199 - index)
        by_hand.append(values[index - reach : index + reach + 1].mean())
    smooth, raw = drawn["loss"].axes[0].get_lines()
    np.testing.assert_allclose(smooth.get_ydata(), by_hand, atol=1e-12)
    np.testing.assert_array_equal(raw.get_ydata(), values)
    assert raw.get_color() == smooth.get_color()
    assert raw.get_zorder() < smooth.get_zorder()


@pytest.mark.parametrize(("last", "scale"), [(0.1, "log"), (1.0, "linear"), (-0.1, "linear")])
def test_a_long_fall_is_drawn_logarithmically(
    tmp_path: Path, drawn: dict[str, Figure], last: float, scale: str
) -> None:
    draw_curves(write(tmp_path / "m.jsonl", train(1, loss=9.0), train(2, loss=last)), tmp_path)
    assert drawn["loss"].axes[0].get_yscale() == scale


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([], id="an empty log"),
        pytest.param([train(1, loss=None)], id="nothing finite"),
        pytest.param([train(1, images_per_second=2.0)], id="nothing to draw"),
    ],
)
def test_nothing_to_draw_gives_no_file(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    draw_curves(write(tmp_path / "metrics.jsonl", *entries), tmp_path / "plots")
    draw_curves(tmp_path / "missing.jsonl", tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


def test_stage_one_has_pictures_of_its_own(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    found = {"recall@1": 0.2, "text_to_image_recall@1": 0.1, "image_to_text_recall@10": 0.5}
    entries = [
        train(1, loss=3.0, clip=3.0, accuracy=0.1),
        train(2, loss=2.0, clip=2.0, accuracy=0.2),
        evaluation(2, **found, zero_shot_top1=0.4, zero_shot_top5=0.9),
    ]
    draw_curves(write(tmp_path / "metrics.jsonl", *entries), tmp_path)
    assert set(drawn) == {"loss", "recall", "zero_shot"}
    assert set(lines(drawn["recall"])) == {*found, "best recall@1: 0.200 at step 2"}
    assert set(lines(drawn["zero_shot"])) >= {"zero_shot_top1", "zero_shot_top5"}
    assert list(lines(drawn["loss"])) == ["loss, clip"]


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", train(1, loss=2.0))
    with path.open("a") as file:
        file.write('{"step": 2, "ki{"step": 3}\n[1]\n{"loss": 3}\n')
        file.write(json.dumps(train(4, loss=1.0)) + '\n{"step": 5, "lo')
    assert [entry["step"] for _, entry in read_metrics(path)] == [1, 4]


def test_signs_of_collapse_have_a_panel_each(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    signals = {"feature_std": 0.9, "teacher_entropy": 2.0, "batch_entropy": 8.0}
    entries = [
        train(step, loss=2.0, dino=2.0, mae=1.0, byol=0.5, koleo=-1.0, **signals) for step in (1, 2)
    ]
    measured = evaluation(2, knn_top1=0.4, knn_top5=0.8)
    draw_curves(write(tmp_path / "metrics.jsonl", *entries, measured), tmp_path)
    assert set(drawn) == {"loss", "collapse", "knn"}
    assert {"loss, dino", "mae", "byol", "koleo"} == set(lines(drawn["loss"]))
    assert {"knn_top1", "knn_top5"} < set(lines(drawn["knn"]))
    panels = drawn["collapse"].axes
    shown = [line.get_label() for panel in panels for line in panel.get_lines()[:1]]
    assert shown == ["teacher_entropy", "batch_entropy", "feature_std"]
    assert [panel.get_ylim() for panel in panels[:2]] == [(0, pytest.approx(8.4))] * 2
