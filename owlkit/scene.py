"""An image that is encoded and can be asked for anything."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owlkit.geometry import ImageTransform
from owlkit.images import ImageSource


@dataclass(frozen=True, eq=False)
class Scene:
    """An encoded image; what :meth:`Predictor.encode` returns and ``detect`` takes.

    Attributes:
        boxes: The box of every patch, xyxy in pixels of the original image [P, 4], float32; not
            clipped.
        transform: How the image was placed in the model input.
        features: What the backend keeps to score queries.
        source: The image as it was given, by reference.
    """

    boxes: NDArray[np.float32] = field(repr=False)
    transform: ImageTransform
    features: Any = field(repr=False)
    source: ImageSource = field(repr=False)
