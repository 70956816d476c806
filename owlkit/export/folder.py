"""The exported folder: graphs, tokenizer, ``owlkit.json`` and a model card.

```
owlkit.json            what the graphs are, how images become their input, hashes of all files
image_encoder.onnx     pixels [batch, 3, H, W] -> class_embeds, boxes, logit_shift, logit_scale,
                       objectness; of further sizes image_encoder_HxW.onnx
text_encoder.onnx      input_ids, attention_mask [query, length] -> query_embeds [query, E]
attention.onnx         where asked for: pixels -> attention [batch, heads, h, w] in [0, 1], of the
                       default size
detector.onnx          where asked for: pixels and query_embeds -> detections
tokenizer/             tokenizer.json and owlkit_tokenizer.json
README.md              model card
```

A graph of 2 GB and more keeps its weights in ``<name>.onnx.data``.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from owlkit import __version__
from owlkit.encoders.hub import FORMAT_VERSION, MANIFEST
from owlkit.export.detector_graphs import Size
from owlkit.export.graphs import OPSET
from owlkit.models.detector import OwlDetector
from owlkit.models.identity import detector_identity
from owlkit.runtime.manifest import DETECTOR

IMAGE_GRAPH = "image_encoder.onnx"
TEXT_GRAPH = "text_encoder.onnx"
ATTENTION_GRAPH = "attention.onnx"
FUSED_GRAPH = "detector.onnx"
TOKENIZER = "tokenizer"


def image_graph_name(size: Size, *, default: Size) -> str:
    """File name of the image graph for one size, (H, W) in pixels."""
    return IMAGE_GRAPH if size == default else f"image_encoder_{size[0]}x{size[1]}.onnx"


def graph_entry(path: Path, *, size: Sequence[int] | None = None) -> dict[str, Any]:
    """What the manifest says of one graph: its file and hash, its size, its file of weights."""
    entry: dict[str, Any] = {"file": path.name}
    if size is not None:
        entry["size"] = list(size)
    entry["sha256"] = hash_file(path)
    data = path.with_name(f"{path.name}.data")
    if data.is_file():
        entry["data"] = {"file": data.name, "sha256": hash_file(data)}
    return entry


def hash_file(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rehash(folder: Path, manifest: dict[str, Any]) -> None:
    """Brings the hashes of a manifest's graphs up to date, after something has rewritten them."""
    for name, found in manifest["graphs"].items():
        entries = found if isinstance(found, list) else [found]
        fresh = [graph_entry(folder / entry["file"], size=entry.get("size")) for entry in entries]
        manifest["graphs"][name] = fresh if isinstance(found, list) else fresh[0]


def detector_manifest(detector: OwlDetector, folder: Path, sizes: Sequence[Size]) -> dict[str, Any]:
    """The manifest of a detector whose graphs lie in a folder.

    Args:
        detector: The model, float32; its identity is that of the exported folder.
        folder: Holds the graphs.
        sizes: (H, W) of the image graphs, the default first.
    """
    images = [
        graph_entry(folder / image_graph_name(size, default=sizes[0]), size=size) for size in sizes
    ]
    calibration = detector.calibration
    preprocessing = detector.preprocessing.to_dict() | {"size": list(sizes[0])}
    graphs: dict[str, Any] = {"image_encoder": images}
    if (folder / TEXT_GRAPH).is_file():
        graphs["text_encoder"] = graph_entry(folder / TEXT_GRAPH)
    if (folder / ATTENTION_GRAPH).is_file():
        graphs["attention"] = graph_entry(folder / ATTENTION_GRAPH, size=sizes[0])
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "owlkit_version": __version__,
        "kind": DETECTOR,
        "identity": detector_identity(detector),
        "preprocessing": preprocessing,
    }
    if calibration is not None:
        manifest["calibration"] = calibration.to_dict()
    if detector.threshold is not None:
        manifest["threshold"] = detector.threshold
    return manifest | {
        "graphs": graphs,
        "embed_width": detector.text.width,
        "objectness": detector.objectness_head is not None,
        "context_length": detector.text.context_length,
        "opset": OPSET,
        "precision": "float32",
        "architecture": detector.architecture,
    }


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes ``owlkit.json``."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads what :func:`write_manifest` wrote."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return manifest
