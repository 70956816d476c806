"""The model card of an exported folder."""

from typing import Any

from owlkit.export.parity import Parity

_USE = {
    "onnx_detector": (
        "zero-shot-object-detection",
        'predictor = owlkit.Predictor.from_pretrained("this/folder")\n'
        'detections = predictor.detect("photo.jpg", ["cat", "remote control"])',
    ),
    "onnx_dual_encoder": (
        "zero-shot-image-classification",
        'model = owlkit.OnnxDualEncoder.from_pretrained("this/folder")',
    ),
}


def model_card(manifest: dict[str, Any], parity: Parity) -> str:
    """Says what the folder holds, how it is used, and how far it is from its model.

    Args:
        manifest: Of the folder.
        parity: What was compared after the export.
    """
    task, use = _USE[manifest["kind"]]
    height, width = manifest["preprocessing"]["size"]
    files = ", ".join(f"`{entry['file']}`" for entry in graph_entries(manifest))
    return f"""---
library_name: owlkit
pipeline_tag: {task}
---
# {manifest["architecture"]["vision"]["name"]} as ONNX graphs, {manifest["precision"]}

Exported by owlkit {manifest["owlkit_version"]}, opset {manifest["opset"]}: {files}. Input
{height}x{width} pixels; the preprocessing is stored in `owlkit.json`. Runs without torch:

```python
import owlkit

{use}
```

## Parity

Largest absolute differences between the float32 graphs on ONNX Runtime and the model in PyTorch.
What has no tolerance is judged by the logits that are made of it.

{parity.table()}
"""


def graph_entries(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of all graphs, in order."""
    groups = manifest["graphs"].values()
    return [entry for found in groups for entry in (found if isinstance(found, list) else [found])]
