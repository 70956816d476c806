"""The transformers detector that owlkit is compared with, and whether both give one answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import ArrayLike, NDArray
from PIL import Image

import owlkit
from owlkit.ops import cxcywh_to_xyxy

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25}
"""How far logits may be apart, in standard deviations of the logits, and corners of boxes, in sides
of the input. In bfloat16 the mean difference is a tenth of that of the worst of 288,000 logits."""


class TransformersDetector:
    """Model and processor of transformers, all labels in one forward pass.

    From a file to boxes: the picture is read, labels and picture go through the processor and the
    model each time, as nothing else is offered.

    Args:
        folder: Of the model.
        names: Labels.
        device: Where it runs, in float32.
    """

    NAME = "transformers model and processor, all labels in one forward"

    def __init__(self, folder: Path, names: Sequence[str], device: torch.device | str) -> None:
        model: Any = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(folder)
        self.model = model.to(device).eval()
        self.processor: Any = transformers.AutoProcessor.from_pretrained(folder)
        self.names = list(names)

    @torch.inference_mode()
    def detect(self, photo: Path, threshold: float) -> int:
        """Finds boxes, each with its best label; returns how many."""
        picture = Image.open(photo).convert("RGB")
        inputs = self.processor(text=[self.names], images=picture, return_tensors="pt")
        outputs = self.model(**inputs.to(self.model.device))
        (found,) = self.processor.post_process_grounded_object_detection(
            outputs, threshold=threshold, target_sizes=[(picture.height, picture.width)]
        )
        return len(found["boxes"])

    @torch.inference_mode()
    def forward(self, pixels: NDArray[np.float32]) -> Any:
        """The model's outputs for pixels that are preprocessed already [3, H, W]."""
        inputs = self.processor(text=[self.names], return_tensors="pt").to(self.model.device)
        batch = torch.from_numpy(pixels)[None].to(self.model.device)
        return self.model(pixel_values=batch, **inputs)


def check_equal_answers(
    predictor: owlkit.Predictor, peer: TransformersDetector, photo: Path, *, precision: str
) -> None:
    """Compares the logits of all patches for all labels, and the boxes of all patches.

    Both sides get the pixels of owlkit's preprocessing; the path ``preprocess`` compares that.

    Args:
        predictor: Has the peer's weights.
        peer: The other side.
        photo: What both look at.
        precision: Says how close they have to be, see :data:`TOLERANCE`.

    Raises:
        RuntimeError: If they are not.
    """
    backend = predictor.backend
    pixels, _ = backend.preprocessing(owlkit.images.load_image(photo))
    outputs = peer.forward(pixels)
    (features,) = backend.encode_images(pixels[None])
    logits = backend.score(features, backend.encode_texts(peer.names))
    check_close("logits", logits, outputs.logits[0].cpu(), precision)
    boxes = cxcywh_to_xyxy(outputs.pred_boxes[0]).cpu()
    check_close("boxes", backend.boxes(features), boxes, precision, unit=1.0)


def check_close(
    what: str, ours: ArrayLike, theirs: ArrayLike, precision: str, *, unit: float | None = None
) -> None:
    """Compares two arrays.

    Args:
        what: They are.
        ours: Of owlkit.
        theirs: Of the peer.
        precision: Says how close they have to be, see :data:`TOLERANCE`.
        unit: Of that; None for the standard deviation of the peer's.

    Raises:
        RuntimeError: If they are further apart, or of other shapes.
    """
    found, expected = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if found.shape != expected.shape:
        raise RuntimeError(f"{what}: owlkit finds {found.shape}, the peer {expected.shape}")
    apart = np.abs(found - expected).max() / (expected.std() if unit is None else unit)
    if not apart <= TOLERANCE[precision]:
        raise RuntimeError(
            f"{what}: expected equal answers within {TOLERANCE[precision]}, found {apart:.2g}"
        )
