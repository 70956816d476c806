"""Precision-recall curves as a picture."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from owlkit.evaluation.coco import BoxMetrics

_SHOWN_IOUS = {0: "IoU 0.50", 5: "IoU 0.75", 9: "IoU 0.95"}


def draw_precision_recall(measured: BoxMetrics, file: Path, *, title: str = "") -> None:
    """Draws the mean precision over the classes at each recall, for three IoU thresholds.

    Behind the curve at IoU 0.5 stand those of the single classes.

    Args:
        measured: Of an evaluation with COCO's ten thresholds; ``precision`` [10, 101, K].
        file: The picture to write; its suffix decides the format.
        title: Above the axes.
    """
    figure = Figure(figsize=(7, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    recall = np.linspace(0, 1, measured.precision.shape[1])
    defined = (measured.precision > -1).all(axis=(0, 1))
    precision = measured.precision[:, :, defined]  # [T, R, K]
    if precision.shape[2]:
        axes.plot(recall, precision[0], color="0.85", linewidth=0.6)
        for threshold, label in _SHOWN_IOUS.items():
            mean = precision[threshold].mean(axis=1)
            axes.plot(recall, mean, label=f"{label}: {mean.mean():.3f}", linewidth=2)
        axes.legend(title="mean over classes", loc="lower left")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=title)
    axes.grid(alpha=0.3)
    figure.savefig(file)
