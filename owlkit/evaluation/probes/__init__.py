"""What can be learned on top of frozen features: a measure of the features, not of the learning."""

from owlkit.evaluation.probes.few_shot import few_shot_indices, prototype_accuracy
from owlkit.evaluation.probes.linear import LinearSchedule, fit_linear, linear_probe
from owlkit.evaluation.probes.logistic import LOGISTIC_STRENGTHS, fit_logistic, logistic_probe
from owlkit.evaluation.probes.result import LinearClassifier, ProbeResult
from owlkit.evaluation.probes.ridge import RIDGE_STRENGTHS, fit_ridge, ridge_probe

__all__ = [
    "LOGISTIC_STRENGTHS",
    "RIDGE_STRENGTHS",
    "LinearClassifier",
    "LinearSchedule",
    "ProbeResult",
    "few_shot_indices",
    "fit_linear",
    "fit_logistic",
    "fit_ridge",
    "linear_probe",
    "logistic_probe",
    "prototype_accuracy",
    "ridge_probe",
]
