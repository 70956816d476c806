"""The fused graph against the image encoder that it continues and owlkit's own postprocessing.

Shapes: B images, P patches, Q queries, E embedding width, N detections.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from owlkit.calibration import Calibration
from owlkit.export.parity import Array, Deviation, GraphRun, Parity
from owlkit.postprocess import batched_nms, select_pairs

# (images, queries) of one run each.
CASES = ((1, 1203), (3, 7), (8, 1))
_TOLERANCE = 1e-4
# Boxes of equal size on a grid overlap by simple fractions; none lies here.
_IOU = 0.4631
_WANTED = 100
_SEED = 21

_Found = dict[tuple[int, int, int], tuple[float, Array]]
"""Score and box of each detection by image, patch and query."""


def check_fused(
    path: Path,
    encoder: Path,
    *,
    size: tuple[int, int],
    width: int,
    calibration: Calibration | None = None,
    top_k: int = 300,
) -> Parity:
    """Compares detections on noise, several numbers of images and queries.

    Args:
        path: The fused graph.
        encoder: The image encoder that it was made of.
        size: (H, W) of the input in pixels.
        width: E.
        calibration: That the graph was made with.
        top_k: Likewise.

    Returns:
        For each run the largest difference of scores and of boxes, and how many detections only one
        side has; two of them, or one in a hundred, may fall on the other side of a limit by
        rounding. `Parity.check` raises if there is more.
    """
    fused, plain, parity = GraphRun(path), GraphRun(encoder), Parity()
    generator = np.random.default_rng(_SEED)
    for batch, count in CASES:
        pixels = generator.standard_normal((batch, 3, *size), dtype=np.float32)
        queries = generator.standard_normal((count, width), dtype=np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        outputs = plain(pixels=pixels)
        logits, boxes = _logits(outputs, queries), _corners(outputs["boxes"])
        threshold = _threshold(logits, calibration, batch)
        expected: _Found = {}
        for image in range(batch):
            found = _expected(logits[image], boxes[image], threshold, calibration, top_k)
            expected |= {(image, *key): value for key, value in found.items()}
        answer = fused(
            pixels=pixels,
            query_embeds=queries,
            score_threshold=np.asarray(threshold),
            iou_threshold=np.array(_IOU, np.float32),
            image_area=np.array([[0, 0, 1, 1]], np.float32),
        )
        case = f"noise, batch {batch}, {count} queries"
        parity += _compared(path.name, case, _by_place(answer), expected)
    return parity


def _logits(outputs: dict[str, Array], queries: Array) -> Array:
    """Logits [B, P, Q], float32."""
    embeds = outputs["class_embeds"]
    units = embeds / (np.linalg.norm(embeds, axis=-1, keepdims=True) + np.float32(1e-6))
    shift, scale = (outputs[name][..., None] for name in ("logit_shift", "logit_scale"))
    logits: Array = (units @ queries.T + shift) * scale
    return logits


def _corners(boxes: Array) -> Array:
    """Corners xyxy of boxes cxcywh, clipped to [0, 1]."""
    centres, halves = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([centres - halves, centres + halves], axis=-1).clip(0, 1)


def _threshold(logits: Array, calibration: Calibration | None, batch: int) -> np.float32:
    """The middle of a wide gap between scores, below about a hundred of each image."""
    scores = np.sort((calibration or Calibration()).probabilities(logits).ravel())[::-1]
    last = min(_WANTED * batch, len(scores) - 1)
    near = scores[last // 2 : last + 1]
    if len(near) < 2:
        return np.float32(0)
    widest = int(np.argmax(near[:-1] - near[1:]))
    return np.float32((near[widest] + near[widest + 1]) / 2)


def _expected(
    logits: Array,
    boxes: Array,
    threshold: np.float32,
    calibration: Calibration | None,
    top_k: int,
) -> dict[tuple[int, int], tuple[float, Array]]:
    """One image's detections by patch and query."""
    scores, patches, queries = select_pairs(
        logits,
        threshold=float(threshold),
        calibrations=None if calibration is None else [calibration] * logits.shape[1],
        visible=(boxes[:, :2] != boxes[:, 2:]).all(axis=1),
    )
    kept: NDArray[np.int64] = batched_nms(boxes[patches], scores, queries, _IOU)[:top_k]
    return {
        (int(patches[row]), int(queries[row])): (float(scores[row]), boxes[patches[row]])
        for row in kept
    }


def _by_place(answer: dict[str, Array]) -> _Found:
    places = [answer[name].tolist() for name in ("batch_index", "patches", "labels")]
    values = zip(answer["scores"].tolist(), answer["boxes"], strict=True)
    return dict(zip(zip(*places, strict=True), values, strict=True))


def _compared(graph: str, case: str, found: _Found, expected: _Found) -> Parity:
    both = found.keys() & expected.keys()
    scores = max((abs(found[key][0] - expected[key][0]) for key in both), default=0.0)
    moved = [np.abs(found[key][1] - expected[key][1]).max() for key in both]
    boxes = float(max(moved, default=0.0))
    lonely = float(len(found.keys() ^ expected.keys()))
    allowed = max(2.0, len(expected) / 100)
    return Parity(
        (
            Deviation(graph, case, "scores", scores, _TOLERANCE),
            Deviation(graph, case, "boxes", boxes, _TOLERANCE),
            Deviation(graph, f"{case}, {len(expected)} detections", "differing", lonely, allowed),
        )
    )
