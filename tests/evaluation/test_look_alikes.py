"""What is taken for what, on scenes made by hand."""

from pathlib import Path

import numpy as np

from owlkit.data.coco import ImageRecord
from owlkit.detections import Detections
from owlkit.evaluation.look_alikes import find_confusion
from owlkit.evaluation.operating_points import Target

CAT, DOG, OWL = 4, 9, 2
BOXES = {
    "cat": [0, 0, 10, 10],
    "dog": [20, 0, 30, 10],
    "second dog": [20, 20, 30, 30],
    "nothing": [50, 50, 60, 60],
}


def scene() -> ImageRecord:
    boxes = np.array([BOXES["cat"], BOXES["dog"], BOXES["second dog"]], np.float32)
    return ImageRecord(1, Path("1.jpg"), 99, 99, boxes, np.array([CAT, DOG, DOG]), (), ())


def found(*rows: tuple[str, int, float]) -> Detections:
    """Detections of (place, row of the class, score)."""
    return Detections(
        boxes=np.array([BOXES[place] for place, _, _ in rows], np.float32).reshape(-1, 4),
        scores=np.array([score for _, _, score in rows], np.float32),
        labels=np.array([label for _, label, _ in rows], np.int64),
        names=tuple("x" for _ in rows),
    )


# Asked for: 0 cat, 1 dog, 2 owl.
SEEN = found(
    ("cat", 0, 0.9),
    ("dog", 1, 0.8),
    ("dog", 0, 0.75),  # a dog taken for a cat
    ("cat", 0, 0.7),  # the same cat once more
    ("second dog", 0, 0.65),  # a dog taken for a cat
    ("second dog", 1, 0.6),
    ("nothing", 1, 0.3),
    ("cat", 1, 0.2),  # a cat taken for a dog
)


def test_what_detections_lie_on() -> None:
    confusion = find_confusion([(scene(), SEEN), (scene(), found())], [CAT, DOG, OWL])
    assert confusion.objects.tolist() == [2, 4, 0]
    assert confusion.shown.tolist() == [0, 1, 1, -1, 1, 1, -1, 0]
    everything = np.zeros(3)
    rivals = confusion.look_alikes(everything)
    assert rivals.tolist() == [1, 0, -1]
    assert confusion.counts(everything, rivals) == (3, 3)
    assert confusion.counts(np.array([0.7, 0.0, 0.0]), rivals) == (3, 2)
    assert confusion.counts(np.array([0.95, 0.7, 0.0]), rivals) == (1, 0)


def test_thresholds_serve_their_target() -> None:
    confusion = find_confusion([(scene(), SEEN)], [CAT, DOG, OWL])
    limits = confusion.thresholds(Target("f1"))
    # Best for cats: the first alone. Best for dogs: the two that are right.
    assert 0.75 <= limits[0] < 0.9
    assert 0.3 <= limits[1] < 0.6
    assert confusion.counts(limits, np.array([1, 0, -1])) == (3, 0)


def test_images_without_objects() -> None:
    blank = ImageRecord(
        2, Path("2.jpg"), 99, 99, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), (), ()
    )
    confusion = find_confusion([(blank, SEEN)], [CAT, DOG, OWL])
    assert set(confusion.shown.tolist()) == {-1}
    assert confusion.counts(np.zeros(3), np.array([1, 0, -1])) == (0, 0)
