"""What may be done to an exported folder after its graphs were compared with the model."""

from pathlib import Path
from typing import Any

from owlkit.calibration import Calibration
from owlkit.export.detector import Step
from owlkit.export.folder import graph_entry, read_manifest, write_manifest
from owlkit.export.fused import write_fused
from owlkit.export.graphs import check_graph


def fused_step(calibration: Calibration | None) -> Step:
    """Adds ``detector.onnx``: scores, top-k and NMS inside the graph.

    Args:
        calibration: Of the model; None for the plain sigmoid.
    """

    def add(folder: Path) -> dict[str, Any]:
        path = write_fused(folder, calibration=calibration)
        check_graph(path)
        manifest = read_manifest(folder)
        manifest["graphs"]["detector"] = graph_entry(path)
        write_manifest(folder, manifest)
        return {}

    return add
