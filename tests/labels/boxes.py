"""Images with boxes for the tests of label files."""

import numpy as np

from owlkit.detections import Detections
from owlkit.labels import LabelledImage

NAMES = ("cat", 'a "red" mug: 50% off', "Brötchen 🥐")

FILE_NAMES = (
    "dog.jpg",
    "dog.png",
    "more/dog.jpg",
    "more/images/labels/dog 1.jpg",
    "ünïcode 猫.png",
    "empty.webp",
)


def labelled_images() -> list[LabelledImage]:
    """Random boxes, some at the very border; the last image has none."""
    generator = np.random.default_rng(0)
    images = []
    for number, file_name in enumerate(FILE_NAMES):
        width, height = int(generator.integers(30, 1000)), int(generator.integers(30, 1000))
        count = 0 if file_name == "empty.webp" else 5 + number
        corners = generator.random((count, 2, 2)).astype(np.float32) * [width, height]
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).round(2)
        if count:
            boxes[0] = (0, 0, width, height)
            boxes[1] = (width - 0.3, height - 0.3, width, height)
        labels = generator.integers(0, len(NAMES), count)
        found = Detections(
            boxes=boxes,
            scores=np.sort(generator.random(count))[::-1],
            labels=labels,
            names=tuple(NAMES[label] for label in labels),
            image_size=(height, width),
        )
        images.append(LabelledImage(file_name, found))
    return images
