"""owlkit: open-vocabulary object detection with words or example boxes as queries."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from owlkit import errors, ops
    from owlkit.detections import Detections
    from owlkit.models import DualEncoder, OwlDetector
    from owlkit.predictor import Predictor, Scene
    from owlkit.queries import QuerySet

# Importing owlkit does nothing; a name is loaded, with what it needs, when it is first used.
_HOMES = {
    "Detections": "owlkit.detections",
    "DualEncoder": "owlkit.models",
    "OwlDetector": "owlkit.models",
    "Predictor": "owlkit.predictor",
    "QuerySet": "owlkit.queries",
    "Scene": "owlkit.predictor",
}
_MODULES = ("errors", "ops")

__all__ = [
    "Detections",
    "DualEncoder",
    "OwlDetector",
    "Predictor",
    "QuerySet",
    "Scene",
    "__version__",
    "errors",
    "ops",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES and name not in _MODULES:
        raise AttributeError(f"module 'owlkit' has no attribute {name!r}")
    try:
        if name in _MODULES:
            return importlib.import_module(f"owlkit.{name}")
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("owlkit"):
            raise
        from owlkit.errors import MissingDependencyError

        raise MissingDependencyError(
            f"owlkit.{name} needs {error.name}: pip install 'owlkit[torch]'"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
