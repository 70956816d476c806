"""What `tests/test_torch_free.py` does twice: here with torch, and where there is none.

Run as a script, it reads the arguments of :func:`detect_everything` and a file for the results from
the command line. It imports nothing that only the tests have.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import owlkit
from owlkit.detections import Detections

NAMES = ["cat", "remote control", "red mug"]
ABSENT = ("torch", "torchvision", "transformers", "timm", "onnx", "pydantic", "scipy", "cv2")


def detect_everything(model: str, photograph: str, queries: str) -> dict[str, Any]:
    """Detections of one photograph, asked for in all ways that need no training.

    Args:
        model: An owlkit folder, exported or not.
        photograph: An image file.
        queries: A saved query set with examples.
    """
    predictor = owlkit.Predictor.from_pretrained(model, device="cpu")
    scene = predictor.encode(photograph)
    examples = owlkit.QuerySet.from_text(["cat"], templates=["a {}", "the {}"])
    examples.add_example("thing", photograph, [[120, 60, 295, 290]])
    examples.add_example("thing", photograph, [[575, 75, 745, 315]], negative=True)
    parts = owlkit.QuerySet.from_text(["cat", "mug"])
    parts.update("mug", parent="cat")
    tiles = owlkit.Tiling(overlap=0.25, size=300)
    found = {
        "words": predictor.detect(scene, NAMES, threshold=0.1),
        "the model's threshold": predictor.detect(scene, NAMES, nms_iou=0.5),
        "saved": predictor.detect(scene, owlkit.QuerySet.load(queries), nms_iou=0.5),
        "examples": predictor.detect(scene, examples, threshold=0.2, nms_iou=0.5),
        "tiles": predictor.detect(photograph, NAMES, tiles=tiles, nms_iou=0.3, top_k=50),
        "parts": predictor.detect(photograph, parts, threshold=0.4, nms_iou=0.2, top_k=30),
    }
    return {name: _as_json(one) for name, one in found.items()}


def _as_json(found: Detections) -> dict[str, Any]:
    return {
        "names": list(found.names),
        "boxes": found.boxes.tolist(),
        "scores": found.scores.tolist(),
    }


if __name__ == "__main__":
    present = [name for name in ABSENT if importlib.util.find_spec(name)]
    assert not present, f"expected none of these to be installed: {present}"
    assert "site-packages" in owlkit.__file__, f"not the installed package: {owlkit.__file__}"
    Path(sys.argv[4]).write_text(json.dumps(detect_everything(*sys.argv[1:4])))
