"""Precision-recall curves and confusion matrices as pictures."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from owlkit.evaluation.coco import BoxMetrics

# Up to so many classes the cells have numbers; more would not be read.
_MOST_NUMBERED = 25
# Up to so many they are named; the picture of more would be metres wide.
_MOST_NAMED = 200
# Characters of a title that fit above the curves.
_TITLE_WIDTH = 70
_SHOWN_IOUS = {0: "IoU 0.50", 5: "IoU 0.75", 9: "IoU 0.95"}


def draw_precision_recall(measured: BoxMetrics, file: Path, *, title: str = "") -> None:
    """Draws the mean precision over the classes at each recall, for three IoU thresholds.

    Behind the curve at IoU 0.5 stand those of the single classes.

    Args:
        measured: Of an evaluation with COCO's ten thresholds; ``precision`` [10, 101, K].
        file: The picture to write; its suffix decides the format.
        title: Above the axes; a long one takes several lines.
    """
    figure = Figure(figsize=(7, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    recall = np.linspace(0, 1, measured.precision.shape[1])
    defined = (measured.precision > -1).all(axis=(0, 1))
    precision = measured.precision[:, :, defined]  # [T, R, K]
    if precision.shape[2]:
        single = axes.plot(recall, precision[0], color="0.85", linewidth=0.6)
        single[0].set_label("IoU 0.50, single classes")
        for threshold, label in _SHOWN_IOUS.items():
            mean = precision[threshold].mean(axis=1)
            axes.plot(recall, mean, label=f"{label}, mean: {mean.mean():.3f}", linewidth=2)
        # Curves may pass anywhere inside the axes.
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    # Two dollar signs in a path are no formula.
    axes.set_title(textwrap.fill(title, _TITLE_WIDTH), fontsize=11, parse_math=False)
    axes.grid(alpha=0.3)
    figure.savefig(file)


def draw_confusion(
    confusion: NDArray[np.int64], names: Sequence[str], file: Path, *, title: str = ""
) -> None:
    """Draws which share of each class is taken for which: rows are true classes, columns found.

    With few classes each cell has its share in percent; the picture grows with their number, so
    that the names of a hundred can be read, and ends to name them beyond two hundred.

    Args:
        confusion: Counts [C, C].
        names: Of the classes (C).
        file: The picture to write; its suffix decides the format.
        title: Above the axes.
    """
    classes = len(names)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    named = min(classes, _MOST_NAMED)
    side = 3 + max(3.0, 0.14 * named) if named > _MOST_NUMBERED else 4 + 0.4 * named
    figure = Figure(figsize=(side + 0.8, side), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, fraction=0.04, label="share of the true class")
    if classes <= _MOST_NAMED:
        # A dollar sign would begin a formula.
        shown = [name.replace("$", r"\$") for name in names]
        size = 9 if classes <= _MOST_NUMBERED else 6
        axes.set_xticks(range(classes), shown, rotation=90, fontsize=size)
        axes.set_yticks(range(classes), shown, fontsize=size)
    axes.set(xlabel="found", ylabel="true")
    axes.set_title(textwrap.fill(title, _TITLE_WIDTH), parse_math=False)
    if classes <= _MOST_NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if share:
                colour = "white" if share > 0.5 else "black"
                text = f"{100 * share:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    # Constrained layout cuts the labels off axes of fixed aspect.
    figure.savefig(file, bbox_inches="tight")
