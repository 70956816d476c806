"""The curves of a run as one picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, LogLocator, NullFormatter

from benchmarks.table import Record
from owlkit.whole_file import written_whole

_PANEL_SIZE = (4.2, 3.4)  # inches
_MOST_COLUMNS = 3
_LONG = 1_000  # end of an axis over its beginning


def draw_curves(records: Sequence[Record], path: Path) -> None:
    """Draws a panel for each path that has curves, both axes logarithmic.

    Dots are medians, the dashed line is the fitted growth. Nothing is written if there is no curve.

    Args:
        records: Rows of a run; those without ``exponent`` are left out.
        path: The picture to write; its suffix decides the format.
    """
    panels: dict[str, list[Record]] = {}
    for record in records:
        if "exponent" in record:
            panels.setdefault(record["path"], []).append(record)
    if not panels:
        return
    columns = min(len(panels), _MOST_COLUMNS)
    rows = -(-len(panels) // columns)
    size = (_PANEL_SIZE[0] * columns, _PANEL_SIZE[1] * rows)
    figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for number, curves in enumerate(panels.values(), start=1):
        _draw_panel(figure.add_subplot(rows, columns, number), curves)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A picture of the same curves is the same file.
    with written_whole(path) as scratch, mpl.rc_context({"svg.hashsalt": "curves"}):
        kind = path.suffix.removeprefix(".")
        figure.savefig(scratch, format=kind, metadata={"Date": None} if kind == "svg" else None)


def _draw_panel(axes: Axes, curves: Sequence[Record]) -> None:
    for curve in curves:
        x, seconds = np.array(curve["x"], dtype=float), np.array(curve["seconds"])
        exponent = round(curve["exponent"], 2) + 0.0  # no minus before a zero
        label = f"{curve['series']}: exponent {exponent:.2f}".removeprefix(": ")
        (drawn,) = axes.plot(x, seconds, marker="o", markersize=4, linewidth=1.6, label=label)
        upper = x[x >= curve["fitted_from"]]
        middle = np.exp(np.log(seconds[-len(upper) :] / upper ** curve["exponent"]).mean())
        fit = middle * upper ** curve["exponent"]
        axes.plot(upper, fit, color="0.25", linestyle="--", linewidth=1.2)
        drawn.set_zorder(2)
    axes.set(xscale="log", yscale="log", xlabel=curves[0]["x_label"], ylabel="seconds")
    _number(axes.xaxis, EngFormatter(sep=""))
    _number(axes.yaxis, FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title(curves[0]["curve"], fontsize=11)
    axes.grid(which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False)


def _number(axis: Axis, formatter: Formatter) -> None:
    """Puts numbers at 1, 2, 5, 10 ..., or powers of ten alone where the axis is long."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < _LONG else (1,)))
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())
