"""owlkit: open-vocabulary object detection with words or example boxes as queries."""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from owlkit import (
        config,
        data,
        encoders,
        engine,
        errors,
        evaluation,
        geometry,
        images,
        losses,
        ops,
        postprocess,
        visualize,
    )
    from owlkit.detections import Detections
    from owlkit.models import DualEncoder, ImageBackbone, OwlDetector
    from owlkit.predictor import Predictor
    from owlkit.queries import Combination, QuerySet
    from owlkit.runtime import OnnxDualEncoder
    from owlkit.scene import Scene
    from owlkit.scene_cache import SceneCache
    from owlkit.tiling import Tiling

__all__ = [
    "Combination",
    "Detections",
    "DualEncoder",
    "ImageBackbone",
    "OnnxDualEncoder",
    "OwlDetector",
    "Predictor",
    "QuerySet",
    "Scene",
    "SceneCache",
    "Tiling",
    "__version__",
    "config",
    "data",
    "encoders",
    "engine",
    "errors",
    "evaluation",
    "geometry",
    "images",
    "losses",
    "ops",
    "postprocess",
    "visualize",
]

# Importing owlkit does nothing; a name is loaded, with what it needs, when it is first used. All
# names in lower case are modules.
_HOMES = {
    "Combination": "owlkit.queries",
    "Detections": "owlkit.detections",
    "DualEncoder": "owlkit.models",
    "ImageBackbone": "owlkit.models",
    "OnnxDualEncoder": "owlkit.runtime",
    "OwlDetector": "owlkit.models",
    "Predictor": "owlkit.predictor",
    "QuerySet": "owlkit.queries",
    "Scene": "owlkit.scene",
    "SceneCache": "owlkit.scene_cache",
    "Tiling": "owlkit.tiling",
}
_MODULES = frozenset(name for name in __all__ if name.islower() and not name.startswith("_"))

# What an extra installs, and the names that need it. Without it they are not listed, so that
# `from owlkit import *`, `help` and `inspect` work; to ask for one of them tells what to install.
_TORCH = ("pydantic", "timm", "torch", "torchvision", "transformers", "yaml")
_EXTRAS = {
    "torch": (_TORCH, ("DualEncoder", "ImageBackbone", "OwlDetector", "config", "encoders", "ops")),
    "train": ((*_TORCH, "accelerate", "rich", "scipy"), ("engine", "evaluation", "losses")),
}
for _packages, _names in _EXTRAS.values():
    if not all(map(find_spec, _packages)):
        __all__ = [name for name in __all__ if name not in _names]


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

        extra = next((extra for extra, (_, names) in _EXTRAS.items() if name in names), "train")
        raise MissingDependencyError(
            f"owlkit.{name} needs {error.name}: pip install 'owlkit[{extra}]'"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
