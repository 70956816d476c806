"""Reliability diagrams as pictures."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from owlkit.evaluation.reliability import ReliabilityBins

_TITLE_WIDTH = 80


def draw_reliability(panels: Mapping[str, ReliabilityBins], file: Path, *, title: str = "") -> None:
    """Draws, for each panel, which share of the detections of a score is right, and their number.

    A calibrated model's bars end on the diagonal. After DeGroot and Fienberg 1983 and Guo et al.
    2017, https://arxiv.org/abs/1706.04599.

    Args:
        panels: Heading and bins of each panel, from left to right.
        file: The picture to write; its suffix decides the format.
        title: Above the panels; a long one takes several lines.
    """
    figure = Figure(figsize=(1 + 4.2 * len(panels), 6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(panels), sharex=True, squeeze=False, height_ratios=(3, 1))
    for column, (heading, bins) in enumerate(panels.items()):
        _draw_panel(grid[0, column], grid[1, column], heading, bins)
    # Two dollar signs in a path are no formula.
    figure.suptitle(textwrap.fill(title, _TITLE_WIDTH), fontsize=11, parse_math=False)
    figure.savefig(file)


def _draw_panel(above: Axes, below: Axes, heading: str, bins: ReliabilityBins) -> None:
    left, width = bins.edges[:, 0], bins.edges[:, 1] - bins.edges[:, 0]
    above.bar(left, bins.accuracy, width, align="edge", color="#4878a8", edgecolor="white")
    above.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=1)
    above.plot(bins.confidence, bins.accuracy, "o", color="#c44e52", markersize=4)
    above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share that is right")
    above.set_title(f"{heading}\nexpected calibration error {bins.error:.4f}", fontsize=10)
    above.grid(alpha=0.3)
    below.bar(left, bins.counts, width, align="edge", color="0.7", edgecolor="white")
    below.set(xlabel="score", ylabel="detections")
    if len(bins.counts):
        below.set_yscale("log")
        below.set_ylim(bottom=0.5)
    below.grid(alpha=0.3)
