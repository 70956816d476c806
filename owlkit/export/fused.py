"""One graph from pixels and queries to detections.

```
inputs   pixels           float32 [batch, 3, H, W]  preprocessed images
         query_embeds     float32 [query, E]        unit vectors or means of them, one a class
         score_threshold  float32 []                scores must be strictly above (0: all pass); in
                                                    [0, 1]
         iou_threshold    float32 []                of two boxes of one class that overlap by more
                                                    only the better stays; in [0, 1], 1: no NMS
         image_area       float32 [1 or batch, 4]   where each image lies in the input, xyxy as
                                                    fractions of its sides: boxes are clipped to it
outputs  boxes            float32 [found, 4]        xyxy, as fractions of the input's sides
         scores           float32 [found]           calibrated as the model is
         labels           int64 [found]             row of query_embeds
         batch_index      int64 [found]             row of pixels
         patches          int64 [found]             row of the image encoder's outputs
```

``image_area`` is ``ImageTransform.apply([[0, 0, w, h]])``, [0, 0, 1, 1] where images are squashed.
``ImageTransform.invert`` turns boxes into pixels of the image. The number of detections an image
may have is chosen when the graph is written.

Detections are those of `owlkit.postprocess`, image by image, by descending score. What can differ
are ties: equal scores come by descending logit, then patch, then query (there: patch, then query,
unless they are calibrated); and what lies within rounding of a limit may fall on its other side, as
an overlap that is compared in float32 here and in float64 there.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, compose, helper, numpy_helper
from onnx_ir.passes.common import RemoveUnusedNodesPass

from owlkit.calibration import Calibration
from owlkit.errors import CheckpointError
from owlkit.export.fused_nodes import detection_constants, detection_nodes
from owlkit.selection import check_top_k
from owlkit.whole_file import written_whole

INPUTS = ("pixels", "query_embeds", "score_threshold", "iou_threshold", "image_area")
OUTPUTS = ("boxes", "scores", "labels", "batch_index", "patches")

_NEEDED = ("class_embeds", "boxes", "logit_shift", "logit_scale")


def write_fused(
    folder: str | Path,
    *,
    calibration: Calibration | None = None,
    top_k: int = 300,
    encoder: str = "image_encoder.onnx",
    file: str = "detector.onnx",
) -> Path:
    """Writes the fused graph beside the image encoder that it continues.

    Weights that the encoder keeps in a file of their own are not written again.

    Args:
        folder: Holds the image encoder, of any precision; gets the new file.
        calibration: Of the model; None for the plain sigmoid.
        top_k: At most so many detections an image, at least 1.
        encoder: Name of the image encoder's file.
        file: Name of the new file.

    Returns:
        The new file.

    Raises:
        CheckpointError: If there is no such image encoder, or something else in its place.
        QueryError: If top_k is no positive integer.
    """
    check_top_k(top_k)
    calibration = calibration or Calibration()
    model = _read_encoder(Path(folder) / encoder)
    graph, width = model.graph, _width(model)
    compose.add_prefix_graph(graph, "encoder/", rename_inputs=False, inplace=True)
    graph.name = "owlkit_detector"
    graph.node.extend(detection_nodes(calibration))
    constants = detection_constants(calibration) | {"top_k": np.array(top_k, np.int64)}
    for name, values in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    graph.input.extend(_inputs(width))
    graph.value_info.extend(graph.output)
    del graph.output[:]
    graph.output.extend(_outputs())
    # The objectness head, whose output nobody reads any more.
    slim = onnx_ir.from_proto(model)
    RemoveUnusedNodesPass()(slim)
    target = Path(folder) / file
    with written_whole(target) as scratch:
        onnx.save(onnx_ir.to_proto(slim), str(scratch))
        onnx.checker.check_model(str(scratch), full_check=True)
    return target


def _read_encoder(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise CheckpointError(f"{path}: expected an image encoder, found no such file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's, which has no types
        raise CheckpointError(f"{path}: not readable as an ONNX graph: {error}") from error
    found = [output.name for output in model.graph.output]
    missing = [name for name in _NEEDED if name not in found]
    if missing or [each.name for each in model.graph.input] != ["pixels"]:
        raise CheckpointError(
            f"{path}: expected an image encoder from pixels to {', '.join(_NEEDED)}; found a graph "
            f"from {', '.join(each.name for each in model.graph.input)} to {', '.join(found)}"
        )
    return model


def _width(model: onnx.ModelProto) -> int | str:
    """Width of the embeddings, E."""
    embeds = next(each for each in model.graph.output if each.name == "class_embeds")
    return embeds.type.tensor_type.shape.dim[-1].dim_value or "width"


def _inputs(width: int | str) -> list[onnx.ValueInfoProto]:
    real = TensorProto.FLOAT
    return [
        helper.make_tensor_value_info("query_embeds", real, ["query", width]),
        helper.make_tensor_value_info("score_threshold", real, []),
        helper.make_tensor_value_info("iou_threshold", real, []),
        helper.make_tensor_value_info("image_area", real, ["area", 4]),
    ]


def _outputs() -> list[onnx.ValueInfoProto]:
    real, whole = TensorProto.FLOAT, TensorProto.INT64
    return [
        helper.make_tensor_value_info("boxes", real, ["found", 4]),
        helper.make_tensor_value_info("scores", real, ["found"]),
        *(helper.make_tensor_value_info(name, whole, ["found"]) for name in OUTPUTS[2:]),
    ]
