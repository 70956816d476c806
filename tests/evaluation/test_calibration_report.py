"""The report says what each class got, and names only what did not work out."""

from owlkit.calibration import Calibration
from owlkit.evaluation.calibration import CalibrationFit, CalibrationMetrics, ClassSettings
from owlkit.evaluation.calibration_report import CalibrationReport
from owlkit.evaluation.operating_points import OperatingPoint

NAMES = ("cat", "a|b", "owl")
SHARED = ClassSettings(Calibration.linear(2.0), OperatingPoint(0.5, 0.75, 1.0, reached=False))
OWN = ClassSettings(Calibration.linear(3.0, 1.0), OperatingPoint(0.25, 1.0, 0.5))
METRICS = CalibrationMetrics(10, 4, 0.5, 0.25, 0.125, 1.5, 0.75, 1.0)


def report(fit: CalibrationFit) -> CalibrationReport:
    return CalibrationReport(
        settings={"method": "platt"},
        held_out="others",
        before=METRICS,
        after=METRICS,
        fitted_on=METRICS,
        names=NAMES,
        fit=fit,
    )


def test_classes_that_share_are_not_listed_one_by_one() -> None:
    together = report(CalibrationFit(SHARED, (SHARED,) * 3))
    page = together.to_markdown()
    assert page.endswith("The target of thresholds cannot be reached for all together.\n")
    assert page.count("0.7500 | 1.0000") == 1, "one row of thresholds"
    assert "too few" not in page
    assert [one["own"] for one in together.to_dict()["classes"].values()] == [False] * 3


def test_classes_have_their_own_or_too_few_detections() -> None:
    apart = report(CalibrationFit(SHARED, (SHARED, OWN, SHARED), too_few=(0, 2)))
    page = apart.to_markdown()
    assert "| a\\|b | 0.2500 | 1.0000 | 0.5000 | 0.6667 |" in page
    assert "| cat |" not in page
    assert "2 of 3 classes have too few detections" in page
    assert "all together: cat, owl." in page
    content = apart.to_dict()
    assert content["classes"]["a|b"] == {
        "own": True,
        "calibration": {"kind": "linear", "scale": 3.0, "bias": 1.0},
        "threshold": 0.25,
        "precision": 1.0,
        "recall": 0.5,
        "f1": 2 / 3,
        "reached": True,
    }
    assert content["classes"]["owl"] == {"own": False, **content["model"]}


def test_without_thresholds_there_is_no_table_of_them() -> None:
    plain = ClassSettings(Calibration.linear(2.0), None)
    page = report(CalibrationFit(plain, (plain,) * 3)).to_markdown()
    assert "precision" not in page
    assert "target" not in page
    assert "| Brier score | 0.1250 | 0.1250 | 0.1250 |" in page
