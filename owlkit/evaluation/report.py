"""Metrics as text for people and as one flat object for programs."""

from collections.abc import Mapping, Sequence

from owlkit.evaluation.coco import BoxMetrics


def format_metrics(metrics: Mapping[str, float]) -> str:
    """One line a metric: its name and its value with four digits; ``-`` where it is undefined.

    Example:
        >>> print(format_metrics({"AP": 0.31234, "APs": -1.0, "strength": 1e-6}))
        AP         0.3123
        APs        -
        strength   1.0e-06
    """
    width = max(map(len, metrics), default=0)
    return "\n".join(f"{name:{width}}   {_number(value)}" for name, value in metrics.items())


def format_classes(measured: BoxMetrics, names: Mapping[int, str]) -> str:
    """A table of the classes, best AP first; classes without ground truth are left out.

    Args:
        measured: Of any evaluation.
        names: Class name of each category id.
    """
    defined = {key: values for key, values in measured.per_class.items() if values["AP"] > -1}
    best_first = sorted(defined, key=lambda key: -defined[key]["AP"])
    columns = list(next(iter(defined.values()), ["AP"]))
    rows = [
        [names[key], *(_number(defined[key][column]) for column in columns)] for key in best_first
    ]
    return _table(["class", *columns], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )


def _number(value: float) -> str:
    if value == -1:
        return "-"
    return f"{value:.1e}" if 0 < value < 1e-4 else f"{value:.4f}"
