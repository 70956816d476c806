"""Many classes on an image that is encoded already: what a saved query set costs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

import owlkit
from benchmarks.comparison import Row, compare
from benchmarks.inputs import make_photo
from benchmarks.predict import save_owlvit
from owlkit.scene_cache import SceneCache

CLASSES = 1203


def query(repeats: int, scratch: Path) -> Iterator[Row]:
    """OWL-ViT B/32 at 768 pixels (576 patches), as many classes as LVIS has, random weights."""
    folder, photo = scratch / "owlvit", scratch / "photo.png"
    # LVIS' own names would make the peer no faster; these need no file.
    names = [f"a {colour} {noun}" for noun in _NOUNS for colour in _COLOURS][:CLASSES]
    save_owlvit(folder, names)
    make_photo(640, 480).save(photo)
    cache = SceneCache(memory=4)
    predictor = owlkit.Predictor.from_pretrained(folder, cache=cache)
    saved = scratch / "lvis.queries"
    predictor.embed(owlkit.QuerySet.from_text(names)).save(saved)
    queries = owlkit.QuerySet.load(saved)
    scene = predictor.encode(str(photo))
    # Only what the random model is surest of, as few boxes as a trained one would find.
    scores = predictor.detect(scene, queries, threshold=0.0, top_k=100).scores
    threshold = float(scores[-1])

    backend: Any = predictor.backend
    model = transformers.OwlViTForObjectDetection.from_pretrained(folder).to(backend.device).eval()
    processor = transformers.OwlViTProcessor.from_pretrained(folder)

    def detect() -> int:
        return len(predictor.detect(scene, queries, threshold=threshold, nms_iou=0.5))

    @torch.inference_mode()
    def peer() -> int:
        picture = Image.open(photo).convert("RGB")
        inputs = processor(text=[names], images=picture, return_tensors="pt").to(backend.device)
        outputs = model(**inputs)
        (found,) = processor.post_process_grounded_object_detection(
            outputs, threshold=threshold, target_sizes=[(480, 640)]
        )
        return len(found["boxes"])

    settings = f"OWL-ViT B/32, 576 patches, {CLASSES} classes of a saved query set"
    yield compare(
        detect,
        peer,
        path="query",
        peer="transformers model and processor, all labels in one forward",
        settings=f"{settings}, encoded scene",
        repeats=min(repeats, 5),
    )
    yield compare(
        lambda: predictor.detect(str(photo), queries, threshold=threshold, nms_iou=0.5),
        peer,
        path="query",
        peer="transformers model and processor, all labels in one forward",
        settings=f"{settings}, picture read and found in the scene cache",
        repeats=min(repeats, 5),
    )


_COLOURS = (
    *("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white"),
    *("grey", "small", "large", "old", "new", "wooden", "metal", "plastic", "round", "square"),
)
_NOUNS = (
    *("cat", "dog", "owl", "mug", "cup", "chair", "table", "lamp", "book", "phone", "car", "truck"),
    *("boat", "bird", "horse", "cow", "sheep", "bottle", "knife", "fork", "spoon", "bowl", "apple"),
    *("banana", "cake", "sofa", "bed", "mirror", "window", "door", "clock", "vase", "scissors"),
    *("toothbrush", "bear", "zebra", "giraffe", "backpack", "umbrella", "shoe", "tie", "suitcase"),
    *("frisbee", "skis", "ball", "kite", "bat", "glove", "skateboard", "surfboard", "racket"),
    *("glass", "pizza", "donut", "plant", "toilet", "laptop", "mouse", "keyboard", "oven", "sink"),
    *("toaster", "fridge"),
)
