"""Many classes on an image that is encoded already: what a saved query set costs."""

from collections.abc import Iterator
from pathlib import Path

import owlkit
from benchmarks.comparison import Row, compare
from benchmarks.inputs import make_photo
from benchmarks.peers import TransformersDetector, check_equal_answers
from benchmarks.predict import SLOW_REPEATS
from benchmarks.random_models import save_owlvit
from owlkit.scene_cache import SceneCache

CLASSES = 1203


def query(repeats: int, scratch: Path) -> Iterator[Row]:
    """OWL-ViT B/32 at 768 pixels (576 patches), as many classes as LVIS has, random weights."""
    folder, photo = scratch / "owlvit_lvis", scratch / "query.png"
    # LVIS' own names would make the peer no faster; these need no file.
    names = [f"a {colour} {noun}" for noun in _NOUNS for colour in _COLOURS][:CLASSES]
    save_owlvit(folder, names)
    make_photo(640, 480).save(photo)
    predictor = owlkit.Predictor.from_pretrained(folder, cache=SceneCache(memory=4))
    saved = scratch / "lvis.queries"
    predictor.embed(owlkit.QuerySet.from_text(names)).save(saved)
    queries = owlkit.QuerySet.load(saved)
    scene = predictor.encode(str(photo))
    peer = TransformersDetector(folder, names, getattr(predictor.backend, "device", "cpu"))
    check_equal_answers(predictor, peer, photo, precision="float32")
    # Only what the random model is surest of, as few boxes as a trained one would find.
    scores = predictor.detect(scene, queries, threshold=0.0, top_k=100).scores
    threshold = float(scores[-1])
    what = {
        "query": (scene, "encoded scene"),
        "query-cache": (str(photo), "picture found in a cache"),
    }
    for path, (image, how) in what.items():
        yield compare(
            lambda image=image: predictor.detect(image, queries, threshold=threshold, nms_iou=0.5),
            lambda: peer.detect(photo, threshold),
            path=path,
            peer=peer.NAME,
            settings=f"OWL-ViT B/32, 576 patches, {CLASSES} classes of a saved query set, {how}",
            repeats=min(repeats, SLOW_REPEATS),
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
