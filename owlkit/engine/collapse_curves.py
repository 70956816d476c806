"""What shows whether a self-supervised run collapses, each signal in a panel of its own.

A collapsed network says the same of every image. Its loss may look fine; these do not.
"""

import re
from collections.abc import Mapping

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from owlkit.engine.curve_axes import Curve, smoothed, tidy

# Term of the training and what it is, in the order of the panels.
_PANELS = {
    "teacher_entropy": "teacher's entropy, one image [nats]",
    "batch_entropy": "teacher's entropy, mean of images [nats]",
    "student_kl": "KL(teacher || student) [nats]",
    "feature_std": "spread of features (1: even)",
    "feature_rank": "dimensions that features use",
}
_PANEL_SIZE = (4.0, 3.0)  # inches
_MOST_COLUMNS = 3

COLLAPSE_SIGNALS = re.compile("|".join(_PANELS))
"""Names of the terms that :func:`collapse_figure` draws."""


def collapse_figure(signals: Mapping[str, Curve]) -> Figure:
    """One panel for each signal, smoothed, its values as they came pale behind it.

    All axes begin at 0. The two entropies share their scale: where they meet, what the teacher says
    does not depend on the image.

    Args:
        signals: Steps and values of some of the signals, at least one.
    """
    names = [name for name in _PANELS if name in signals]
    columns = min(len(names), _MOST_COLUMNS)
    rows = -(-len(names) // columns)
    size = (_PANEL_SIZE[0] * columns, _PANEL_SIZE[1] * rows)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for number, name in enumerate(names, start=1):
        axes = figure.add_subplot(rows, columns, number)
        steps, values = signals[name]
        (line,) = axes.plot(steps, smoothed(values), linewidth=1.6, label=name, zorder=2)
        axes.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.8, zorder=1)
        axes.set_title(_PANELS[name], fontsize="small")
        axes.set_ylim(0, _top(name, signals))
        tidy(axes)
    return figure


def _top(name: str, signals: Mapping[str, Curve]) -> float:
    """The upper end of a panel, a little above its values."""
    entropies = [other for other in signals if other.endswith("_entropy")]
    shown = entropies if name in entropies else [name]
    highest = max(float(signals[other][1].max()) for other in shown)
    return 1.05 * highest if highest > 0 else 1.0
