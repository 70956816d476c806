"""Detection, from a picture in memory to the boxes, against image size, queries and batch."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

import owlkit
from benchmarks.curves import MOST_REPEATS, Curve, trace
from benchmarks.curves_detector import MODEL, make_detector, patches
from benchmarks.inputs import NAMES, make_photo
from owlkit.images import ImageSource
from owlkit.scene import Scene
from owlkit.torch_backend import TorchBackend

SIZES = (192, 288, 384, 576, 768, 960)
"""Sides of the model's input in pixels."""
COUNTS = (1, 10, 100, 1_000, 2_500, 5_000, 10_000, 20_000)
"""Of queries."""
BATCHES = (1, 2, 4, 8, 16)

_SIZE = 384
_FOUND = 100
_EMBED_WIDTH = 512


def image_size(repeats: int, scratch: Path) -> Iterator[Curve]:
    """One picture, COCO's 80 classes."""
    photo = np.asarray(make_photo(640, 480))
    functions = {}
    for size in SIZES:
        predictor = _predictor(size, scratch)
        queries = predictor.embed(owlkit.QuerySet.from_text(NAMES))
        functions[size] = lambda predictor=predictor, queries=queries: predictor.detect(
            photo, queries, top_k=_FOUND
        )
    yield trace(
        functions,
        path="curve-size",
        curve="detection against image size",
        settings=f"OWL-ViT {MODEL}, float32, 80 queries ready",
        x_label="side of the model's input [pixels]",
        repeats=min(repeats, MOST_REPEATS),
    )


def queries(repeats: int, scratch: Path) -> Iterator[Curve]:
    """One picture and many classes, whose embeddings are there: random directions."""
    predictor = _predictor(_SIZE, scratch)
    names = [f"class {number}" for number in range(max(COUNTS))]
    everything = owlkit.QuerySet.from_text(names)
    vectors = np.random.default_rng(0).normal(size=(len(names), _EMBED_WIDTH))
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    table = everything.table(predictor.backend.identity)
    table.texts.update(zip(names, units, strict=True))
    photo = np.asarray(make_photo(640, 480))
    scene = predictor.encode(photo)
    sets = {count: everything.subset(names[:count]) for count in COUNTS}
    # As many boxes for each set: a number that grew would hide what the queries themselves cost.
    thresholds = {
        count: float(predictor.detect(scene, chosen, threshold=0.0, top_k=_FOUND).scores[-1])
        for count, chosen in sets.items()
    }

    def detect(image: ImageSource | Scene, count: int) -> None:
        predictor.detect(image, sets[count], threshold=thresholds[count], nms_iou=0.5)

    for series, image in (("encoded scene", scene), ("picture", photo)):
        yield trace(
            {count: partial(detect, image, count) for count in COUNTS},
            path="curve-queries",
            curve="detection against queries",
            series=series,
            settings=f"OWL-ViT {MODEL}, float32, {patches(_SIZE)} patches, queries ready, "
            f"about {_FOUND} boxes found, {series}",
            x_label="queries",
            repeats=repeats,
        )


def batch(repeats: int, scratch: Path) -> Iterator[Curve]:
    """Pictures that are encoded together."""
    predictor = _predictor(_SIZE, scratch, batch_size=max(BATCHES))
    queries = predictor.embed(owlkit.QuerySet.from_text(NAMES))
    photos = [np.asarray(make_photo(640, 480, seed=seed)) for seed in range(max(BATCHES))]
    yield trace(
        {
            count: lambda count=count: predictor.detect(photos[:count], queries, top_k=_FOUND)
            for count in BATCHES
        },
        path="curve-batch",
        curve="detection against batch",
        settings=f"OWL-ViT {MODEL}, {_SIZE} px, float32, 80 queries ready",
        x_label="pictures",
        repeats=min(repeats, MOST_REPEATS),
    )


def _predictor(size: int, scratch: Path, *, batch_size: int = 1) -> owlkit.Predictor:
    return owlkit.Predictor(TorchBackend(make_detector(size, scratch)), batch_size=batch_size)
