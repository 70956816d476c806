"""Curves of a run, drawn from its metrics.jsonl: losses, what was measured, learning rates."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from owlkit.engine.collapse_curves import COLLAPSE_SIGNALS, collapse_figure
from owlkit.engine.curve_axes import Curve, smoothed, tidy

# Terms by name; further ones are recognised by "loss" in their name.
_LOSS_TERMS = (
    *("classes", "l1", "giou", "objectness"),
    *("clip", "siglip", "triplet", "simclr"),
    *("dino", "ibot", "koleo", "mae", "byol"),
)
_LOSSES = re.compile(rf".*loss.*|{'|'.join(_LOSS_TERMS)}")
_RATES = re.compile(r"lr|lr[_/].*|.*_lr")
# File, axis and names of what evaluations find; by the first curve of a file the best is marked.
_MEASURED = (
    ("ap", "average precision", re.compile(r"ap(50)?([_/](base|novel))?", re.IGNORECASE)),
    ("recall", "recall", re.compile(r"(text_to_image_|image_to_text_)?recall@\d+")),
    ("zero_shot", "zero-shot accuracy", re.compile(r"zero_shot_top\d")),
    ("knn", "k-NN accuracy", re.compile(r"knn_top\d")),
)
# Losses that fall by more than this factor are drawn on a logarithmic axis.
_LINEAR_UP_TO = 20.0
# The sum of the terms is drawn as the widest of the losses.
_TOTAL_WIDTH = 3.0


def read_metrics(metrics_file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a metrics.jsonl, oldest first, each as text and parsed.

    What is no JSON object with a step, as a crash leaves behind, is passed over.
    """
    for line in metrics_file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            yield line, entry


def draw_curves(metrics_file: Path, out_folder: Path) -> None:
    """Draws ``loss.png``, ``lr.png``, ``collapse.png``, and one file for what evaluations find.

    The latter are ``ap.png``, ``recall.png``, ``zero_shot.png`` and ``knn.png``. A figure without
    values gives no file.

    Args:
        metrics_file: As :class:`~owlkit.engine.run_log.RunLog` writes it; nothing is drawn if it is
            missing.
        out_folder: Made if needed.
    """
    if not metrics_file.exists():
        return
    entries = [entry for _, entry in read_metrics(metrics_file)]
    losses = _curves(entries, kind="train", names=_LOSSES)
    rates = _curves(entries, kind="train", names=_RATES)
    if losses:
        _save(_loss_figure(_merged(losses)), out_folder / "loss.png")
    for file, quantity, names in _MEASURED:
        if measured := _curves(entries, kind="eval", names=names):
            _save(_measured_figure(quantity, measured), out_folder / f"{file}.png")
    if signals := _curves(entries, kind="train", names=COLLAPSE_SIGNALS):
        _save(collapse_figure(signals), out_folder / "collapse.png")
    if rates:
        figure = _figure("learning rate", _merged(rates))
        figure.axes[0].ticklabel_format(axis="y", scilimits=(-2, 3))
        _save(figure, out_folder / "lr.png")


def _curves(
    entries: Sequence[dict[str, Any]], *, kind: str, names: re.Pattern[str]
) -> dict[str, Curve]:
    """Steps and values of each fitting name that has a finite value, in order of appearance."""
    points: dict[str, list[tuple[int, float]]] = {}
    for entry in entries:
        for name, value in entry.items():
            if entry.get("kind") == kind and names.fullmatch(name) and value is not None:
                points.setdefault(name, []).append((entry["step"], float(value)))
    curves = {name: np.asarray(pairs, dtype=np.float64).T for name, pairs in points.items()}
    return {name: (curve[0], curve[1]) for name, curve in curves.items()}


def _loss_figure(losses: dict[str, Curve]) -> Figure:
    """Smoothed lines, the values as they came pale behind them."""
    smooth = {name: (steps, smoothed(values)) for name, (steps, values) in losses.items()}
    figure = _figure("loss", smooth)
    axes = figure.axes[0]
    for line, (steps, values) in zip(axes.get_lines(), losses.values(), strict=True):
        axes.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.8, zorder=1)
    lowest = min(values.min() for _, values in losses.values())
    highest = max(values.max() for _, values in losses.values())
    if 0 < lowest * _LINEAR_UP_TO < highest:
        axes.set_yscale("log")
    return figure


def _measured_figure(quantity: str, measured: dict[str, Curve]) -> Figure:
    """The first curve, by which the best model is chosen, has its best step marked."""
    figure = _figure(quantity, measured, marker="o")
    axes = figure.axes[0]
    name, (steps, values) = next(iter(measured.items()))
    best = values.argmax()
    label = f"best {name}: {values[best]:.3f} at step {steps[best]:.0f}"
    axes.axvline(steps[best], color="0.4", linestyle=":", linewidth=1.2, label=label, zorder=1)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def _merged(curves: dict[str, Curve]) -> dict[str, Curve]:
    """Curves that lie on one another become one, with the names of all."""
    names: dict[tuple[bytes, bytes], list[str]] = {}
    for name, (steps, values) in curves.items():
        names.setdefault((steps.tobytes(), values.tobytes()), []).append(name)
    return {", ".join(same): curves[same[0]] for same in names.values()}


def _figure(quantity: str, curves: dict[str, Curve], *, marker: Literal["", "o"] = "") -> Figure:
    """Lines over steps with labels, legend and grid; without pyplot, hence without global state."""
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, (steps, values) in curves.items():
        width = _TOTAL_WIDTH if name.split(", ")[0] == "loss" else 1.6
        axes.plot(steps, values, marker=marker, markersize=4, linewidth=width, label=name, zorder=2)
    axes.set_ylabel(quantity)
    tidy(axes)
    axes.legend(frameon=False, ncols=1 + len(curves) // 5)
    return figure


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
