"""What calibration did, as text for people and as an object for programs.

Shapes: C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from owlkit.evaluation.calibration import CalibrationFit, CalibrationMetrics, ClassSettings

_ROWS = {
    "ece": "expected calibration error, 15 bins of equal width",
    "ece_adaptive": "expected calibration error, 15 bins of equal size",
    "brier": "Brier score",
    "nll": "negative log-likelihood",
    "mean_f1": "F1, mean over classes",
    "f1": "F1, all classes together",
}
# Classes that are listed by name where many share a fate.
_SHOWN = 20


@dataclass(frozen=True)
class CalibrationReport:
    """The result of a calibration.

    Attributes:
        settings: How it was made, name to value.
        held_out: Which images the numbers are of.
        before: Plain sigmoids and a threshold of 0.1, on images that were not fitted on.
        after: Calibrations and thresholds that were fitted on other images, on the same.
        fitted_on: The final fit on the images that it was fitted on; flatters it.
        names: Of the classes (C).
        fit: What is used from now on.
    """

    settings: Mapping[str, Any]
    held_out: str
    before: CalibrationMetrics
    after: CalibrationMetrics
    fitted_on: CalibrationMetrics
    names: Sequence[str]
    fit: CalibrationFit

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "settings": dict(self.settings),
            "held_out": self.held_out,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "fitted_on": self.fitted_on.to_dict(),
            "model": _settings_to_dict(self.fit.shared),
            "classes": {
                name: {"own": settings is not self.fit.shared, **_settings_to_dict(settings)}
                for name, settings in zip(self.names, self.fit.classes, strict=True)
            },
        }

    def to_markdown(self) -> str:
        """A page with the numbers and whatever did not work out."""
        settings = "\n".join(f"- {name}: {value}" for name, value in self.settings.items())
        parts = [
            "# Calibration",
            settings,
            f"Measured on {self.held_out}: {self.before.pairs} detections, "
            f"{self.before.objects} objects. The last column is the final fit on the "
            f"{self.fitted_on.pairs} detections that it was made from.",
            self.table(),
            *self._thresholds(),
            *self._remarks(),
        ]
        return "\n\n".join(parts) + "\n"

    def table(self) -> str:
        """The numbers before and after, as a Markdown table."""
        lines = ["| | before | after | final, on its own data |", "|---|---|---|---|"]
        for key, words in _ROWS.items():
            values = (getattr(part, key) for part in (self.before, self.after, self.fitted_on))
            lines.append(f"| {words} | {' | '.join(f'{value:.4f}' for value in values)} |")
        return "\n".join(lines)

    def _thresholds(self) -> list[str]:
        point = self.fit.shared.point
        if point is None:
            return []
        lines = [
            "| class | threshold | precision | recall | F1 |",
            "|---|---|---|---|---|",
            _threshold_row("all together", self.fit.shared),
        ]
        lines += [_threshold_row(name, settings) for name, settings in self._own()]
        return ["\n".join(lines)]

    def _own(self) -> list[tuple[str, ClassSettings]]:
        """Name and settings of the classes that have their own."""
        pairs = zip(self.names, self.fit.classes, strict=True)
        return [(name, settings) for name, settings in pairs if settings is not self.fit.shared]

    def _remarks(self) -> list[str]:
        few = [self.names[label] for label in self.fit.too_few]
        missed = [
            name
            for name, settings in [("all together", self.fit.shared), *self._own()]
            if settings.point is not None and not settings.point.reached
        ]
        remarks = []
        if few:
            remarks.append(
                f"{len(few)} of {len(self.names)} classes have too few detections and get the "
                f"settings of all together: {_listed(few)}."
            )
        if missed:
            remarks.append(f"The target of thresholds cannot be reached for {_listed(missed)}.")
        return remarks


def _threshold_row(name: str, settings: ClassSettings) -> str:
    point = settings.point
    assert point is not None
    numbers = (point.threshold, point.precision, point.recall, point.f1)
    cell = name.replace("|", "\\|").replace("\n", " ")
    return f"| {cell} | {' | '.join(f'{number:.4f}' for number in numbers)} |"


def _settings_to_dict(settings: ClassSettings) -> dict[str, Any]:
    content: dict[str, Any] = {"calibration": settings.calibration.to_dict()}
    point = settings.point
    if point is not None:
        content["threshold"] = point.threshold
        content["precision"], content["recall"] = point.precision, point.recall
        content["f1"], content["reached"] = point.f1, point.reached
    return content


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
