"""What may be done to an exported folder after its graphs were compared with the model.

Each function makes a :data:`~owlkit.export.detector.Step`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from owlkit.calibration import Calibration
from owlkit.encoders.text import TextTower
from owlkit.export.card import graph_entries
from owlkit.export.detector import Step
from owlkit.export.folder import (
    FUSED_GRAPH,
    TEXT_GRAPH,
    graph_entry,
    read_manifest,
    write_manifest,
)
from owlkit.export.fused import write_fused
from owlkit.export.fused_check import check_fused
from owlkit.export.graphs import STANDARD, check_graph
from owlkit.export.optimize import FUSED_DOMAINS, Feed, optimize_graph
from owlkit.export.quantize import Measure
from owlkit.export.wrappers import example_tokens


def fused_step(calibration: Calibration | None) -> Step:
    """Adds ``detector.onnx``: scores, top-k and NMS inside the graph.

    Args:
        calibration: Of the model; None for the plain sigmoid.
    """

    def add(folder: Path) -> dict[str, Any]:
        path = write_fused(folder, calibration=calibration, file=FUSED_GRAPH)
        # The image encoder inside may be an optimised one.
        check_graph(path, domains=(*STANDARD, *FUSED_DOMAINS))
        manifest = read_manifest(folder)
        encoder = manifest["graphs"]["image_encoder"][0]
        parity = check_fused(
            path,
            folder / encoder["file"],
            size=(encoder["size"][0], encoder["size"][1]),
            width=manifest["embed_width"],
            calibration=calibration,
        )
        parity.check(folder)
        manifest["graphs"]["detector"] = graph_entry(path) | {"size": encoder["size"]}
        write_manifest(folder, manifest)
        return {"fused": parity.to_dict()}

    return add


def optimize_step(text: TextTower) -> Step:
    """Lets ONNX Runtime's fused attention into the graphs that it makes faster or smaller.

    Measured is, by file, what was tried and whether it was kept.

    Args:
        text: Says what its graph takes.
    """

    def optimize(folder: Path) -> dict[str, Any]:
        found = {}
        for entry in graph_entries(read_manifest(folder)):
            feeds = _text_feeds(text) if entry["file"] == TEXT_GRAPH else _image_feeds(entry)
            report = optimize_graph(folder / entry["file"], feeds)
            found[entry["file"]] = report.to_dict()
        return {"optimization": found}

    return optimize


def accuracy_step(measure: Measure) -> Step:
    """Measures the float32 graphs on a data set.

    Args:
        measure: Gives numbers by name.
    """
    return lambda folder: {"accuracy": {"float32": dict(measure(folder))}}


def _image_feeds(entry: dict[str, Any]) -> list[Feed]:
    generator = np.random.default_rng(0)
    shapes = [(batch, 3, *entry["size"]) for batch in (1, 3)]
    return [{"pixels": generator.standard_normal(shape, dtype=np.float32)} for shape in shapes]


def _text_feeds(text: TextTower) -> list[Feed]:
    rows = [example_tokens(text, count, length) for count, length in ((7, 6), (1, 4))]
    return [{"input_ids": ids.numpy(), "attention_mask": mask.numpy()} for ids, mask in rows]
