"""What runs the networks behind a predictor."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from owlkit.calibration import Calibration
from owlkit.geometry import Preprocessing


@dataclass(frozen=True, eq=False)
class PatchArrays:
    """Everything a detector knows about one image, as numpy arrays.

    The logit of a unit query q on patch p is ``(z_p / (|z_p| + 1e-6) . q + shift_p) * scale_p``.

    Shapes: P patches, E embedding width; all float32.

    Attributes:
        class_embeds: Image-side embedding z of each patch, not normalised [P, E].
        boxes: xyxy in [0, 1] of the model input [P, 4].
        logit_shift: Added to the cosine [P].
        logit_scale: Positive factor after the shift [P].
        objectness: Logit that a patch holds any object [P]; None for models without that head.
    """

    class_embeds: NDArray[np.float32] = field(repr=False)
    boxes: NDArray[np.float32] = field(repr=False)
    logit_shift: NDArray[np.float32] = field(repr=False)
    logit_scale: NDArray[np.float32] = field(repr=False)
    objectness: NDArray[np.float32] | None = field(default=None, repr=False)


class Backend(Protocol):
    """A detector that encodes images and texts apart and scores one against the other.

    Shapes: B images, P patches in h rows of w, n heads, Q queries, E embedding width.
    """

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become this model's input."""

    @property
    def identity(self) -> str:
        """A hash of all that embeddings depend on: weights, preprocessing, numerical convention.

        Queries may be embedded by one model of an identity and asked of another.
        """

    @property
    def precision(self) -> str:
        """What else the features of an image depend on: number formats, or graphs in use.

        Features that are kept belong to one identity and one precision.
        """

    @property
    def calibration(self) -> Calibration | None:
        """What turns this model's logits into probabilities; None for the plain sigmoid."""

    @property
    def threshold(self) -> float | None:
        """Where this model's scores are best cut, in [0, 1]; None if nobody measured it."""

    def encode_images(self, pixel_values: NDArray[np.float32]) -> list[Any]:
        """Encodes preprocessed images [B, 3, H, W]; returns the features of each, as kept here."""

    def attention(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Where the last block looks in preprocessed images [B, 3, H, W], one or more.

        Returns:
            Attention of the token that stands for the whole image to the patches, in [0, 1], one
            map for each head: float32 [B, n, h, w].

        Raises:
            ConfigError: If the model was exported without attention maps.
            TokenError: If the image tower is no vision transformer.
        """

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encodes Q texts as unit vectors [Q, E]."""

    def boxes(self, features: Any) -> NDArray[np.float32]:
        """One image's boxes: xyxy in [0, 1] of the model input [P, 4]."""

    def score(self, features: Any, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """One image's logits [P, Q], an array of its own that may be written to.

        Args:
            features: One of the results of :meth:`encode_images`.
            queries: Unit vectors or means of unit vectors [Q, E]; the logit of a mean is the mean
                of the logits.
        """

    def to_arrays(self, features: Any) -> PatchArrays:
        """One image's features as arrays, for example to keep them on disk."""

    def from_arrays(self, arrays: PatchArrays) -> Any:
        """Features as :meth:`encode_images` returns them; undoes :meth:`to_arrays`."""
