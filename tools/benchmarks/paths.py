"""The comparisons by name, and the groups of them that the command line knows."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Comparison = Callable[[int, Path], Iterator[Any]]
"""Takes the number of pairs and a scratch folder, which all share; yields rows, dataclasses with at
least ``path``, ``peer``, ``ratio`` and ``settings``."""

GROUPS: dict[str, dict[str, str]] = {
    "predict": {
        "predict-model": "predict:predict_model",
        "predict-model-bf16": "predict:predict_model_bf16",
        "predict-owlv2": "predict:predict_owlv2",
        "predict-owlv2-bf16": "predict:predict_owlv2_bf16",
        "predict-tower": "predict:predict_tower",
        "predict-bf16": "predict:predict_bf16",
        "predict-compile": "predict:predict_compile",
        "oneshot": "oneshot:oneshot",
        # Last, because minutes of full load slow some processors down for what comes after.
        "predict-pipeline": "predict:predict_pipeline",
    },
    "query": {"query": "query:query"},
    "preprocess": {"preprocess": "preprocess:preprocess"},
    "train": {
        "train": "train:train",
        "train-tokendrop": "train:train_tokendrop",
        "train-efficiency": "train:train_efficiency",
    },
    "pretrain": {"pretrain": "pretrain:pretrain"},
    "selfsup": {"selfsup": "selfsup:selfsup"},
    "loader": {"loader": "loader:loader"},
    "evaluate": {"evaluate": "evaluate:evaluate"},
    "export": {
        "onnx-fp32": "export:onnx_fp32",
        "onnx-int8": "export:onnx_int8",
        "predict-onnx": "export:predict_onnx",
        "coldstart": "export:coldstart",
    },
    "memory": {
        "loss-memory": "memory:loss_memory",
        "siglip-memory": "siglip_memory:siglip_memory",
        "train-memory": "train_memory:train_memory",
    },
    "curves": {
        "curve-size": "curves_predict:image_size",
        "curve-queries": "curves_predict:queries",
        "curve-batch": "curves_predict:batch",
        "curve-tokens": "curves_train:tokens",
        "curve-boxes": "curves_train:boxes",
        "curve-detections": "curves_evaluate:detections",
    },
}
"""By group and path the module and function that measure it; only those that run are imported, so
that each needs only its own peers."""

PATHS = {path: where for group in GROUPS.values() for path, where in group.items()}

TRAINING = frozenset(
    {*GROUPS["train"], *GROUPS["pretrain"], *GROUPS["selfsup"], "curve-tokens", "curve-boxes"}
)
"""Paths whose both sides run in memory that the process keeps, as runs of owlkit's trainer do."""


def chosen_paths(names: Sequence[str]) -> list[str]:
    """The paths of groups and paths, each once; a name that is both means the group."""
    everything = {**{path: [path] for path in PATHS}, **{"all": [*PATHS]}}
    everything |= {group: [*paths] for group, paths in GROUPS.items()}
    return [*dict.fromkeys(path for name in names for path in everything[name])]


def find_comparison(path: str) -> Comparison:
    """The function that measures a path.

    Raises:
        SystemExit: If its peer is not installed.
    """
    module, function = PATHS[path].split(":")
    try:
        found: Comparison = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("benchmarks", "owlkit")):
            raise
        raise SystemExit(f"{path} needs {error.name}: pip install 'owlkit[bench]'") from error
    return found
